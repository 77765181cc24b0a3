"""What a user can choose of each verb of `unlearn request`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from unlearn.config import Flag, Names, options
from unlearn.model.opening import Device, Opening, RemoteCode
from unlearn.runs.fields import (
    Adapters,
    Canaries,
    Data,
    Holdout,
    Json,
    Model,
    Options,
    Place,
    Retain,
    Seed,
    Selectors,
    Template,
)
from unlearn.runs.options import DEFAULT_METHOD

if TYPE_CHECKING:
    from unlearn.apps.requests.ledger.ledger import Ledger

__all__ = [
    "AddOptions",
    "CertificateOptions",
    "CheckOptions",
    "CloseOptions",
    "LedgerOptions",
    "ListOptions",
    "LocateOptions",
    "RunOptions",
    "ShowOptions",
    "SweepOptions",
    "VerifyOptions",
]

RequestName = Annotated[
    str,
    Field(description="Id, the beginning of one, or number."),
    Flag(metavar="REQUEST", argument=True),
]
RequestNames = Annotated[
    Sequence[str],
    Field(description="Ids; default: all that wait."),
    Flag(metavar="REQUEST", argument=True, kind=list[str]),
]
Yes = Annotated[bool, Field(description="Do not ask."), Flag(("--yes", "-y"))]


@options
class LedgerOptions:
    """Of every verb that looks into a ledger."""

    _: KW_ONLY
    ledger: Annotated[
        str | None,
        Field(
            description="A file, sqlite:///FILE or postgresql://…. Default: ledger.db in "
            "~/.unlearn."
        ),
        Flag(metavar="URL", envvar="UNLEARN_LEDGER"),
    ] = None
    json: Json = False

    def open_ledger(self, *, examine: bool = False) -> Ledger:
        """Open the ledger; to be examined, also where its end was tampered with."""
        from unlearn.apps.requests.ledger.ledger import Ledger

        return Ledger.open(self.ledger, examine=examine)


@options
class AddOptions(LedgerOptions):
    """Of `request add`."""

    model: Model
    data: Data
    forget: Annotated[
        Selectors,
        Field(
            description="Records to delete: id1,id2 | @file | subject:NAME | rows:180-199 | "
            "text:EXACT | contains:VALUE | field:COLUMN=VALUE (repeat for several)."
        ),
        Flag(("--forget", "-f"), metavar="WHICH", kind=list[str]),
    ]
    _: KW_ONLY
    adapter: Adapters = None
    holdout: Holdout = None
    retain: Retain = None
    template: Template = None
    label: Annotated[
        str | None,
        Field(
            description="Shown in lists and stored as it is: a ticket's number, never a person's "
            "name."
        ),
    ] = None
    person: Annotated[str | None, Field(description="Who asks; stored as a keyed digest only.")] = (
        None
    )
    due: Annotated[
        str | None,
        Field(description="By when it must be done; shown in lists."),
        Flag(metavar="DATE"),
    ] = None


@options
class LocateOptions(LedgerOptions):
    """Of `request locate`."""

    name: RequestName
    _: KW_ONLY
    near: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Least similarity (Jaccard, 5-character pieces) of near-duplicates; 0 "
            "looks for none.",
        ),
    ] = 0.8
    encoder: Annotated[
        str | None,
        Field(
            description="Also find records that say the same in other words, by the vectors of "
            "this text encoder (a folder or a hub name)."
        ),
        Flag(metavar="DIR|NAME"),
    ] = None
    meaning: Annotated[
        float,
        Field(
            ge=0.01,
            le=1,
            description="Least similarity (cosine) of those; encoders differ, so look at what "
            "comes.",
        ),
    ] = 0.9
    include: Annotated[
        str | None,
        Field(
            description="Near-duplicates to delete too, by id, or all that are shown. An id that "
            "holds a comma stands between double quotes: '\"a,b\",c'."
        ),
        Flag(metavar="IDS|all"),
    ] = None
    yes: Yes = False
    show_text: Annotated[bool, Field(description="Show the records' text on the screen.")] = False
    device: Device = None
    trust_remote_code: RemoteCode = False


@options
class RunOptions(LedgerOptions, Opening):
    """Of `request run`."""

    names: RequestNames = ()
    _: KW_ONLY
    method: Annotated[
        str | None,
        Field(
            description=f"See `unlearn methods`. Default: {DEFAULT_METHOD} with budget=auto, which "
            "is exact."
        ),
        Flag(metavar="NAME"),
    ] = None
    options: Options = field(default_factory=dict)
    output: Annotated[
        Path | None,
        Field(
            description="Folder in which each run makes one of its own. Default: beside the ledger."
        ),
        Flag(metavar="DIR"),
    ] = None
    suppress: Annotated[
        bool,
        Field(description="Never train on these records again on this machine."),
        Flag(("--suppress/--no-suppress",)),
    ] = True
    canaries: Canaries = None
    with_canaries: Annotated[
        int,
        Field(
            ge=0,
            description="Take K of the canaries out beside the records; `request verify` measures "
            "them, also for requests that are closed by then. Later runs find --canaries by "
            "themselves.",
        ),
        Flag(metavar="K"),
    ] = 0
    off_now: Annotated[
        bool,
        Field(
            description="Of folders of shards: first drop the shards that hold the records, into a "
            "folder of their own that can be served while they are trained again."
        ),
    ] = False
    seed: Seed = 0


@options
class VerifyOptions(LedgerOptions, Opening):
    """Of `request verify`."""

    names: RequestNames = ()
    _: KW_ONLY
    reference: Annotated[
        Sequence[str],
        Field(description="An adapter that never saw the records (repeat for several)."),
        Flag(metavar="ADAPTER", kind=list[str]),
    ] = ()
    references: Annotated[
        Sequence[str],
        Field(
            description="A folder searched for references: each request is compared with those "
            "that by their lineage never saw its records, such as half-splits that serve them all."
        ),
        Flag(metavar="DIR", kind=list[str]),
    ] = ()
    policy: Annotated[
        str | None, Field(description="By which to decide."), Flag(metavar="NAME")
    ] = None
    replay: Annotated[
        bool | None,
        Field(
            description="Train the adapter again, as `unlearn replay` does: where that gives the "
            "same weights, the request passes (tier E), and no reference is needed. Default: where "
            "retraining made the adapter, and neither references nor a policy are named. With "
            "these, --replay is decided beside the audit; --no-replay only audits."
        ),
        Flag(("--replay/--no-replay",)),
    ] = None
    canaries: Annotated[
        Place | None,
        Field(description="Where the canaries are now, if the file was moved."),
        Flag(metavar="FILE"),
    ] = None
    output: Annotated[
        Path | None,
        Field(
            description="Folder in which each audit makes one of its own. Default: beside the "
            "ledger."
        ),
        Flag(metavar="DIR"),
    ] = None
    also: Annotated[
        Names,
        Field(description="Further passes, as `unlearn audit --also`."),
        Flag(metavar="NAMES"),
    ] = ()
    robustness: Annotated[
        Names, Field(description="As `unlearn audit --robustness`."), Flag(metavar="NAMES")
    ] = ()
    generate: Annotated[int, Field(ge=0, description="As `unlearn audit --generate`.")] = 64
    show_ids: Annotated[bool, Field(description="As `unlearn audit --show-ids`.")] = False
    seed: Seed = 0


@options
class SweepOptions(LedgerOptions):
    """Of `request sweep`."""

    name: RequestName
    folders: Annotated[
        Sequence[Path],
        Field(description="Where to look besides its own files."),
        Flag(metavar="FOLDER", argument=True, kind=list[Path]),
    ] = ()
    _: KW_ONLY
    purge: Annotated[
        bool,
        Field(
            description="Delete what was found, asking each time. Data files are rewritten without "
            "the records; what is retained stays."
        ),
    ] = False
    unclear: Annotated[
        bool,
        Field(
            description="Purge too what may descend from the records; without it, only what is "
            "known to."
        ),
    ] = False
    trash: Annotated[
        Path | None,
        Field(
            description="Move there, on the same file system, what --purge would delete. It counts "
            "as found until it is deleted from there."
        ),
        Flag(metavar="FOLDER"),
    ] = None
    yes: Yes = False


@options
class CertificateOptions(LedgerOptions):
    """Of `request certificate`."""

    name: RequestName
    _: KW_ONLY
    output: Annotated[Path, Field(description="The certificate."), Flag(metavar="FILE")]


@options
class CloseOptions(LedgerOptions):
    """Of `request close`."""

    name: RequestName
    _: KW_ONLY
    outcome: Annotated[
        str | None,
        Field(
            description="pass | incomplete | fail | inconclusive | withdrawn. Default: what its "
            "state says. pass needs a sweep, and no artifact left; withdrawn is for what no run "
            "carried out, and fail gives up on what one did."
        ),
    ] = None
    reason: Annotated[
        str | None,
        Field(
            description="Why it is closed as pass or incomplete though something stands beside the "
            "verdict: a secret in a kept record, what a sweep left open, a verdict before that "
            "was none. Kept encrypted in the ledger; the certificate says that there is one."
        ),
        Flag(metavar="TEXT"),
    ] = None
    yes: Yes = False


@options
class ListOptions(LedgerOptions):
    """Of `request list`."""

    state: Annotated[
        str | None,
        Field(
            description="Only requests in these states, by commas; `open` stands for all but "
            "closed."
        ),
    ] = None
    person: Annotated[str | None, Field(description="Only those that this person asked for.")] = (
        None
    )
    check: Annotated[
        bool, Field(description="Check the ledger too, as `unlearn request check`.")
    ] = False


@options
class ShowOptions(LedgerOptions):
    """Of `request show`."""

    name: RequestName


@options
class CheckOptions(LedgerOptions):
    """Of `request check`."""

    file: Annotated[
        Path | None,
        Field(
            description="A certificate.json to check by itself instead, offline and without a "
            "ledger, as `unlearn certificate check` does."
        ),
        Flag(metavar="[CERTIFICATE]", argument=True),
    ] = None
    _: KW_ONLY
    key: Annotated[
        Path | None,
        Field(description="Of the certificate: its signer's public key."),
        Flag(metavar="PUB"),
    ] = None
    expect_head: Annotated[
        str | None,
        Field(
            description="A head noted earlier: must still be in the history (finds a ledger that "
            "was put back to an old copy)."
        ),
        Flag(metavar="HASH"),
    ] = None
