"""A stage takes an Arrow table and gives one back, and never sees a row that already failed.

`Stage.__call__` sets rejected rows aside, hands the living ones to `work`, and puts both together again in the order they
came, the columns the stage adds null in the rejected rows. What `work` raises is sorted here:

- `Rejection` raised for a batch of one becomes that row's fate;
- anything else, and a `Rejection` from a larger batch, is narrowed down by halving: rows that fail alone while others of
  the same batch go through are rejected with reason "failed";
- if *every* row of a batch fails (and there is more than one), or the error says the machine is at fault, it is raised:
  a lost GPU must not turn a million images into rejections.

The cost of a batch with one bad row is 2·log2(rows) further calls; of a good batch, nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyarrow as pa
import pyarrow.compute as pc

from geobatch.errors import MachineError, Rejection, UserError
from geobatch.schema import REUSED, empty_columns

#: Errors that are never an image's fault.
_MACHINE = (MachineError, UserError, MemoryError, OSError)


class Stage(ABC):
    """One step of the river; its class name is a verb.

    Class attributes:
        drops: columns the next stages do not need.
        adds: fields that `work` appends; every other column passes through.
    """

    drops: tuple[str, ...] = ()
    adds: tuple[pa.Field, ...] = ()

    @abstractmethod
    def work(self, table: pa.Table) -> pa.Table:
        """The living rows, in order: returns as many rows, in the same order, with the fields of `adds` appended.

        May reject rows with `rejected`; may raise `Rejection` when it is given a single row.
        """

    def __call__(self, table: pa.Table) -> pa.Table:
        """Runs the stage on the rows that are alive; the others, and those whose place is known already, pass by."""
        alive = pc.is_null(table["reason"])
        if REUSED.name in table.column_names:
            alive = pc.and_(alive, pc.is_null(table[REUSED.name]))
        living, dead = table.filter(alive), table.filter(pc.invert(alive))
        if not len(living):
            return self._pass_by(table)
        done = _narrow(self, living)
        if not len(dead):
            return done
        both = pa.concat_tables([done, self._pass_by(dead).select(done.column_names).cast(done.schema)])
        order = pa.concat_arrays([pc.indices_nonzero(alive), pc.indices_nonzero(pc.invert(alive))])
        return both.take(pc.sort_indices(order))

    def _pass_by(self, table: pa.Table) -> pa.Table:
        for name, column in empty_columns(list(self.adds), len(table)).items():
            table = table.append_column(name, column)
        return table.drop_columns([name for name in self.drops if name in table.column_names])

    def _finish(self, table: pa.Table, rows: int) -> pa.Table:
        missing = [field.name for field in self.adds if field.name not in table.column_names]
        if missing or len(table) != rows:
            raise MachineError(f"{type(self).__name__} gave {len(table)} of {rows} rows without {missing}: a bug, report it")
        return table.drop_columns([name for name in self.drops if name in table.column_names])


def rejected(table: pa.Table, stage: str, fates: dict[int, Rejection]) -> pa.Table:
    """`table` with the rows at the given positions marked as rejected by `stage`."""
    if not fates:
        return table
    for name, value in (
        ("stage", lambda _: stage),
        ("reason", lambda fate: fate.reason),
        ("detail", lambda fate: fate.detail),
    ):
        column = table[name].to_pylist()
        for row, fate in fates.items():
            column[row] = value(fate)
        table = table.set_column(table.column_names.index(name), name, pa.array(column, pa.string()))
    return table


def _narrow(stage: Stage, table: pa.Table) -> pa.Table:
    errors: list[Exception] = []
    done = pa.concat_tables(_halve(stage, table, errors))
    faults = [error for error in errors if not isinstance(error, Rejection)]
    if len(errors) == len(table) > 1 and faults:
        raise faults[0]
    return done


def _halve(stage: Stage, table: pa.Table, errors: list[Exception]) -> list[pa.Table]:
    try:
        return [stage._finish(stage.work(table), len(table))]
    except _MACHINE:
        raise
    except Exception as error:  # noqa: BLE001  any error of a model is either one image's or, if all rows fail, raised
        if len(table) > 1:
            middle = len(table) // 2
            return [*_halve(stage, table[:middle], errors), *_halve(stage, table[middle:], errors)]
        errors.append(error)
        fate = error if isinstance(error, Rejection) else Rejection("failed", f"{type(error).__name__}: {error}")
        return [stage._pass_by(rejected(table, type(stage).__name__.lower(), {0: fate}))]
