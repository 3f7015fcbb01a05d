"""All rows, in the order of the table."""

from benchmarks import cold, command, hits, opens, population, stores, traffic
from benchmarks.row import Row

ROWS: dict[str, Row] = {
    row.name: row
    for family in (hits, opens, cold, traffic, population, stores, command)
    for row in family.ROWS
}
