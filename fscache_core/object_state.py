"""The states of an object and the events between them, as a table (reference section 6).

Phases and where ERROR or KILL lead, looked at before every state:

    init    until LOOK_UP_OBJECT first runs    ABORT_INIT
    lookup  until OBJECT_AVAILABLE runs        LOOKUP_FAILURE
    run     from then on                       KILL_OBJECT

`fscache_core.state_machine` runs it.
"""

from __future__ import annotations

from dataclasses import dataclass

# Events, by bit (6.1).
NEW_CHILD = 1 << 0
PARENT_READY = 1 << 1
UPDATE = 1 << 2
INVALIDATE = 1 << 3
CLEARED = 1 << 4
ERROR = 1 << 5
KILL = 1 << 6
OUT_OF_BAND = ERROR | KILL


@dataclass(frozen=True, slots=True)
class State:
    """A row of the table: a wait state has transitions, a work state a method of `StateMachine`."""

    name: str
    short: str
    transitions: tuple[tuple[int, str], ...] = ()  #: (event, next state), first match wins
    work: str | None = None
    leads_to: tuple[str, ...] = ()  #: the states that the work can end in


STATES = {
    state.name: state
    for state in (
        State("WAIT_FOR_INIT", "?INI", transitions=((NEW_CHILD, "INIT_OBJECT"),)),
        State("INIT_OBJECT", "INIT", (), "_init_object", ("DROP_OBJECT", "PARENT_READY", "WAIT_FOR_PARENT")),
        State("WAIT_FOR_PARENT", "?PRN", transitions=((PARENT_READY, "PARENT_READY"),)),
        State("PARENT_READY", "PRDY", (), "_parent_ready", ("LOOK_UP_OBJECT",)),
        State(
            "LOOK_UP_OBJECT",
            "LOOK",
            (),
            "_look_up_object",
            ("LOOK_UP_OBJECT", "LOOKUP_FAILURE", "OBJECT_AVAILABLE"),
        ),
        State("CREATE_OBJECT", "CRTO"),  # never entered, as in the reference: creation is part of lookup
        State("OBJECT_AVAILABLE", "AVBL", (), "_object_available", ("JUMPSTART_DEPS",)),
        State("JUMPSTART_DEPS", "JUMP", (), "_jumpstart_dependents", ("WAIT_FOR_CMD",)),
        State(
            "WAIT_FOR_CMD",
            "?CMD",
            transitions=(
                (INVALIDATE, "INVALIDATE_OBJECT"),
                (UPDATE, "UPDATE_OBJECT"),
                (NEW_CHILD, "JUMPSTART_DEPS"),
            ),
        ),
        State("INVALIDATE_OBJECT", "INVL", (), "_invalidate_object", ("UPDATE_OBJECT", "KILL_OBJECT")),
        State("UPDATE_OBJECT", "UPDT", (), "_update_object", ("WAIT_FOR_CMD",)),
        State("ABORT_INIT", "ABRT", (), "_abort_init", ("KILL_OBJECT",)),
        State("LOOKUP_FAILURE", "LCFL", (), "_lookup_failure", ("KILL_OBJECT",)),
        State(
            "KILL_OBJECT",
            "KILL",
            (),
            "_kill_object",
            ("DROP_OBJECT", "KILL_DEPENDENTS", "WAIT_FOR_CLEARANCE"),
        ),
        State("KILL_DEPENDENTS", "KDEP", (), "_kill_dependents", ("WAIT_FOR_CLEARANCE",)),
        State("WAIT_FOR_CLEARANCE", "?CLR", transitions=((CLEARED, "KILL_OBJECT"),)),
        State("DROP_OBJECT", "DROP", (), "_drop_object", ("OBJECT_DEAD",)),
        State("OBJECT_DEAD", "DEAD"),
    )
}

#: The out-of-band table: where ERROR or KILL lead, by phase, and the states that may be due then.  (Others
#: are run in the same step as the one before, so that no event comes in between.)
OUT_OF_BAND_TABLE = {
    "ABORT_INIT": ("WAIT_FOR_INIT", "WAIT_FOR_PARENT", "LOOK_UP_OBJECT"),
    "LOOKUP_FAILURE": ("LOOK_UP_OBJECT", "OBJECT_AVAILABLE"),
    "KILL_OBJECT": ("JUMPSTART_DEPS", "WAIT_FOR_CMD"),
}

EVENTS = {
    NEW_CHILD: "NEW_CHILD",
    PARENT_READY: "PARENT_READY",
    UPDATE: "UPDATE",
    INVALIDATE: "INVALIDATE",
    CLEARED: "CLEARED",
    ERROR: "ERROR",
    KILL: "KILL",
}


def transitions() -> list[tuple[str, str, str]]:
    """The whole table, as (state, event, next state); the event is empty where a work state ends."""
    table = []
    for state in STATES.values():
        table += [(state.name, EVENTS[event], target) for event, target in state.transitions]
        table += [(state.name, "", target) for target in state.leads_to]
    for target, due in OUT_OF_BAND_TABLE.items():
        table += [(name, EVENTS[event], target) for name in due for event in (ERROR, KILL)]
    return table


#: Public: state name -> the short name of the object list.
object_states: dict[str, str] = {state.name: state.short for state in STATES.values()}
