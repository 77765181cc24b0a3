"""`unlearn audit`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from unlearn.apps.cli import flags

__all__ = ["audit"]


def audit(
    model: flags.Model,
    data: flags.Data,
    output: flags.Output,
    forget_ids: Annotated[
        list[str] | None,
        typer.Option(
            "--forget",
            "-f",
            metavar="IDS",
            help="The records that were taken out, as for `unlearn forget` (repeat for several).",
        ),
    ] = None,
    adapter: flags.Adapters = None,
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="ADAPTER", help="The adapter before unlearning."),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="ADAPTER|DIR",
            help="An adapter that never saw the records, or a folder of them from `unlearn "
            "references` (repeat for several).",
        ),
    ] = None,
    shadow: Annotated[
        list[str] | None,
        typer.Option(
            "--shadow",
            metavar="ADAPTER|DIR",
            help="An adapter whose lineage tells which of the records it saw, or a folder of them "
            "from `unlearn references --kind half` (repeat for several). LiRA and RMIA compare "
            "with them; they are no references.",
        ),
    ] = None,
    holdout: flags.Holdout = None,
    retain: flags.Retain = None,
    canaries: Annotated[
        str | None,
        typer.Option(
            "--canaries",
            metavar="FILE",
            help="Measure canaries instead of records: ADAPTER.canaries.json, from `unlearn "
            "finetune --canaries`. Those that were taken out (all, if nothing was) stand beside "
            "the other of each pair, which a coin left out of training. The adapter's lineage must "
            "commit to this very file.",
        ),
    ] = None,
    template: flags.Template = None,
    generate: Annotated[
        int,
        typer.Option(
            "--generate",
            min=0,
            help="Records of each split that every state continues by itself (ROUGE, repetition); "
            "0 for none.",
        ),
    ] = 64,
    also: Annotated[
        str,
        typer.Option(
            "--also",
            metavar="NAMES",
            help="Passes beyond the usual one, by commas: `unlearn attacks` lists them with their "
            "cost.",
        ),
    ] = "",
    paraphrases: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Other prompts for --also prompt_states: rows with the id of a forget record and "
            "a prompt.",
        ),
    ] = None,
    perturbed: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="False answers, for the truth ratio: rows with the id of a record (or its "
            "question and answer) and perturbed_answer, a list; TOFU's tables fit as they are.",
        ),
    ] = None,
    neighbour: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|IDS",
            help="Records like those to forget that stay (of the same people or topics), to be "
            "looked at by themselves: a file, or which ones of --data.",
        ),
    ] = None,
    robustness: Annotated[
        str,
        typer.Option(
            "--robustness",
            metavar="NAME[,NAME]",
            help="What to do to the model and its references besides, to see whether the records "
            "come back: relearn, benign, int8, int4, nf4, scale, merge_bf16, logit_lens, or all. "
            "Takes time; `unlearn attacks` says what each does.",
        ),
    ] = "",
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Fix the policy of a later `unlearn verify` before any score exists: quick, "
            "standard, strict or a YAML file. What it declares is measured too.",
        ),
    ] = None,
    robustness_option: Annotated[
        list[str] | None,
        typer.Option(
            "--robustness-option",
            metavar="TREATMENT.OPTION=VALUE",
            help="Set how that is done (repeat for several): relearn.k=5, relearn.steps=20, "
            "relearn.learning_rate=1e-4, relearn.seeds=0,1,2 (their mean and interval, too), the "
            "same of benign, scale.factors=0,0.5, int4.groups=64,128, logit_lens.blocks=3,5. "
            "`unlearn attacks` lists all with their defaults.",
        ),
    ] = None,
    show_text: Annotated[
        bool,
        typer.Option(
            "--show-text",
            help="Put the text of the records and what the model says into report.html. Without it "
            "the report holds numbers only.",
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Refuse a holdout that nearly repeats other records, not only copies."
        ),
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Take numbers of states that were run on these records before from the toolkit's "
            "home (cache/scores, numbers only), and keep new ones there.",
        ),
    ] = True,
    seed: flags.Seed = 0,
    overwrite: flags.Overwrite = False,
    dtype: flags.Dtype = "auto",
    device: flags.Device = None,
    trust_remote_code: flags.RemoteCode = False,
    load_in_4bit: flags.FourBit = False,
) -> None:
    """Measure what an adapter still knows of records that were taken out.

    Compares the adapter with itself before, with references that never saw the records, and with
    the base. Writes report.html for people, audit.json for programs and scores.parquet. For a full
    fine-tune, leave --adapter out and name models with --before and --reference. What was taken out
    is named with --forget, or is canaries.

    Example: unlearn audit --model BASE --adapter cleaned --before adapter --reference retrained
    --data records.jsonl --forget subject:ann --holdout unseen.jsonl --output audit
    """
    from unlearn.apps.cli.screen import console, progress_bar, show_note
    from unlearn.apps.cli.tables import audit_table
    from unlearn_eval.audit.run import run_audit
    from unlearn_eval.report import in_a_sentence
    from unlearn_eval.robustness.treatments.options import parse_options

    records, selector = flags.one_selector(data, forget_ids)
    with progress_bar("scoring") as progress:
        result = run_audit(
            model,
            records,
            selector,
            output,
            adapter=adapter,
            before=before,
            references=reference or (),
            shadows=shadow or (),
            holdout=holdout,
            retain=retain,
            canaries=canaries,
            template=template,
            generate=generate,
            also=[name for name in also.replace(" ", "").split(",") if name],
            paraphrases=paraphrases,
            perturbed=perturbed,
            neighbour=neighbour,
            robustness=[name for name in robustness.replace(" ", "").split(",") if name],
            policy=policy,
            announce=show_note,
            robustness_options=parse_options(robustness_option or ()),
            show_text=show_text,
            strict=strict,
            seed=seed,
            overwrite=overwrite,
            cache=cache,
            progress=progress,
            **flags.opening(dtype, device, trust_remote_code, load_in_4bit),
        )
    audit_table(result)
    console.print(f"[bold]{escape(in_a_sentence(result))}[/bold]")
    where = escape(str(output))
    console.print(f"Saved to [bold]{where}[/bold] (audit.json, scores.parquet)")
    console.print(f"Look at  [bold]{where}/report.html[/bold] in a browser")
