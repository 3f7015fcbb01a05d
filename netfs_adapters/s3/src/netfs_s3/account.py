"""Where the buckets are and as whom we ask: the usual AWS variables and files.

obstore reads the variables but not the files, and its own extra variables could override what is resolved
here; so everything is resolved here, as the ``aws`` command would, and handed over explicitly.  Only what
needs a network is left to others: web identity, container and instance credentials to obstore; profiles that
assume a role, use SSO or run a command to botocore, if it is installed.
"""

from __future__ import annotations

import configparser
import hashlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fscache_core.errors import CallerError
from fscache_core.late_import import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from obstore.store import S3Credential

#: How long credentials from a file or from botocore are used before they are looked up again.
_REFRESH = timedelta(minutes=5)
_DEFAULT_REGION = "us-east-1"
#: A profile with one of these needs more than a look into the file.
_BOTOCORE_ONLY = (
    "role_arn",
    "sso_session",
    "sso_account_id",
    "sso_start_url",
    "credential_process",
    "web_identity_token_file",
)

Profile = dict[str, str]


@dataclass(frozen=True, slots=True)
class Account:
    """The result: no secret is in any field that is ever printed."""

    endpoint: str  #: URL without bucket and without a trailing slash
    region: str
    identity: str  #: tells apart accounts that may have different rights; names them, holds no secret
    is_aws: bool  #: the endpoint is the region's own, not a configured one
    #: None: left to obstore (web identity, container, instance), or anonymous
    credentials: Callable[[], S3Credential] | None = field(repr=False, compare=False)
    anonymous: bool = False


def resolve_account(
    *,
    endpoint: str | None = None,
    region: str | None = None,
    profile: str | None = None,
    anonymous: bool = False,
    identity: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Account:
    """Find endpoint, region and credentials without a network.

    Options win over variables, variables over files.  A profile given as an option wins over
    ``AWS_ACCESS_KEY_ID``; one named by ``AWS_PROFILE`` does not.

    Raises:
      CallerError: a named profile does not exist, a file cannot be parsed, half a pair of keys is set, ...
    """
    files = _ConfigFiles(environ)
    profile_name = profile or environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    settings = files.profile(profile_name)
    if settings is None:
        if profile_name != "default":
            raise CallerError(
                f"profile {profile_name!r} is not in {files.credentials_path} or {files.config_path}"
            )
        settings = {}
    region = (
        region
        or environ.get("AWS_REGION")
        or environ.get("AWS_DEFAULT_REGION")
        or settings.get("region")
        or _DEFAULT_REGION
    )
    configured = endpoint
    if configured is None and environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        configured = (
            environ.get("AWS_ENDPOINT_URL_S3")
            or environ.get("AWS_ENDPOINT_URL")
            or files.service_endpoint(settings)
            or settings.get("endpoint_url")
        )
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    url = _canonical_endpoint(configured) if configured else f"https://s3.{region}.{domain}"
    if anonymous:
        found, who = None, "anonymous"
    else:
        found, who = _find_credentials(files, profile_name, settings, profile is not None, environ)
    return Account(url, region, identity or who, not configured, found, anonymous)


def _canonical_endpoint(url: str) -> str:
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        port = parts.port
    except ValueError as error:
        raise CallerError(f"S3 endpoint is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise CallerError(
            f"S3 endpoint must be http[s]://HOST[:PORT][/PATH], not {parts.scheme}://{parts.hostname}"
        )
    if parts.username is not None:
        raise CallerError("S3 endpoint must not hold a user name or password")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is not None and port != {"http": 80, "https": 443}[parts.scheme]:
        host += f":{port}"
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


class _ConfigFiles:
    """``~/.aws/credentials`` and ``~/.aws/config``, or where the variables point."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        home = Path(environ.get("HOME") or Path.home())
        self.credentials_path = Path(
            environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws/credentials"
        ).expanduser()
        self.config_path = Path(environ.get("AWS_CONFIG_FILE") or home / ".aws/config").expanduser()
        self._credentials = _read_ini(self.credentials_path)
        self._config = _read_ini(self.config_path)

    def profile(self, name: str) -> Profile | None:
        """Both files' entries of a profile; credentials wins.  None if neither has it."""
        in_config = self._config.get(f"profile {name}")
        if name == "default":
            in_config = self._config.get("default", in_config)
        in_credentials = self._credentials.get(name)
        if in_config is None and in_credentials is None:
            return None
        return {**(in_config or {}), **(in_credentials or {})}

    def service_endpoint(self, settings: Profile) -> str | None:
        """``endpoint_url`` of ``s3`` in the ``[services NAME]`` section that the profile refers to."""
        section = self._config.get(f"services {settings.get('services', '')}", {})
        for line in section.get("s3", "").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "endpoint_url":
                return value.strip()
        return None


def _read_ini(path: Path) -> dict[str, Profile]:
    # A value may hold '%' (no interpolation) and keys below a nested 's3 =' are continuation lines.
    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise CallerError(
            f"cannot read {path}: {error.strerror if isinstance(error, OSError) else 'not UTF-8'}"
        ) from None
    except configparser.Error as error:
        # The error's own text quotes lines, and a line may hold a secret.
        line = getattr(error, "lineno", None)
        raise CallerError(f"cannot parse {path}" + (f", line {line}" if line else "")) from None
    return {" ".join(section.split()): dict(parser.items(section)) for section in parser.sections()}


def _find_credentials(
    files: _ConfigFiles, name: str, settings: Profile, explicit_profile: bool, environ: Mapping[str, str]
) -> tuple[Callable[[], S3Credential] | None, str]:
    """Return what yields credentials (None: obstore finds them) and the identity they stand for."""
    if not explicit_profile:
        key_id, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
        if key_id or secret:
            if not (key_id and secret):
                raise CallerError("of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set")
            fixed = _credential(key_id, secret, environ.get("AWS_SESSION_TOKEN") or None, None)
            return lambda: fixed, f"key {key_id}"
        if environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") and environ.get("AWS_ROLE_ARN"):
            return None, f"role {environ['AWS_ROLE_ARN']}"
    if settings.get("aws_access_key_id"):
        _from_profile(files, name)  # complain now about half a pair

        def reread() -> S3Credential:
            return _from_profile(_ConfigFiles(environ), name)

        return reread, f"key {settings['aws_access_key_id']}"
    if any(key in settings for key in _BOTOCORE_ONLY):
        return _with_botocore(name), _identity_of_profile(name, settings)
    if explicit_profile:
        raise CallerError(f"profile {name!r} has no credentials")
    uri = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or environ.get(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    )
    return None, f"container {uri}" if uri else "instance"


def _from_profile(files: _ConfigFiles, name: str) -> S3Credential:
    settings = files.profile(name) or {}
    key_id, secret = settings.get("aws_access_key_id"), settings.get("aws_secret_access_key")
    if not (key_id and secret):
        raise CallerError(f"profile {name!r} has only one of aws_access_key_id and aws_secret_access_key")
    token = settings.get("aws_session_token")
    # Tools that hand out temporary credentials rewrite the file.
    return _credential(key_id, secret, token, datetime.now(UTC) + _REFRESH if token else None)


def _credential(key_id: str, secret: str, token: str | None, expires_at: datetime | None) -> S3Credential:
    return {"access_key_id": key_id, "secret_access_key": secret, "token": token, "expires_at": expires_at}


def _identity_of_profile(name: str, settings: Profile) -> str:
    if "role_arn" in settings:
        return f"role {settings['role_arn']}"
    if "sso_account_id" in settings:
        return f"sso {settings['sso_account_id']} {settings.get('sso_role_name', '')}"
    # A command line may hold a secret: name it by its hash.
    text = "\0".join(f"{key}={settings[key]}" for key in _BOTOCORE_ONLY if key in settings)
    return f"profile {name} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _with_botocore(profile: str) -> Callable[[], S3Credential]:
    try:
        with importing:
            import botocore.session
    except ImportError:
        raise CallerError(
            f"profile {profile!r} assumes a role, uses SSO or runs a command: install botocore"
        ) from None
    session = botocore.session.Session(profile=profile)

    def credentials() -> S3Credential:
        found = session.get_credentials()
        if found is None:
            raise CallerError(f"botocore finds no credentials for profile {profile!r}")
        frozen = found.get_frozen_credentials()
        return _credential(
            frozen.access_key or "", frozen.secret_key or "", frozen.token, datetime.now(UTC) + _REFRESH
        )

    return credentials
