"""Commands `prosody adapter list|check|merge`: LoRA adapters of higgs-local."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ai_core.commands.options import AsJson

if TYPE_CHECKING:
    from synth.higgs_local.adapter import Adapter

app = typer.Typer(help="LoRA adapters of the local Higgs voice.", no_args_is_help=True)

AdapterFolder = Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of the adapter, as PEFT writes it.")]
_BASE = "Folder of the model, or its name on the hub."
_BASE_VARIABLE = "PROSODY_HIGGS_LOCAL__MODEL"
_FOLDER_VARIABLE = "PROSODY_HIGGS_LOCAL__ADAPTERS"


@app.command("list")
def list_adapters(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder of adapters, one per subfolder.", envvar=_FOLDER_VARIABLE, show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the adapters of a folder, with the marks that each was trained on."""
    from ai_core.commands import console as out
    from prosody_tagger.errors import BadInput
    from synth.higgs_local.adapter import Adapter, AdapterCatalogue

    if folder is None:
        raise BadInput(f"no folder: give the folder of your adapters, or set {_FOLDER_VARIABLE}")
    if not folder.is_dir():
        raise BadInput(f"there is no folder {str(folder)!r}; give the folder of your adapters")
    found = AdapterCatalogue(folder).all()
    if as_json:
        entries = [
            _as_dict(entry) if isinstance(entry, Adapter) else {"name": name, "error": str(entry)} for name, entry in found.items()
        ]
        out.print_json({"folder": str(folder), "adapters": entries})
        return
    rows = [
        (name, ", ".join(entry.marks) or "none", str(len(entry.modules)), str(entry.rank), _base_name(entry))
        if isinstance(entry, Adapter)
        else (name, f"cannot be used: {entry}", "", "", "")
        for name, entry in found.items()
    ]
    out.print_table(("adapter", "marks", "layers", "rank", "base"), rows)


@app.command()
def check(
    adapter: AdapterFolder,
    base: Annotated[str | None, typer.Option("--base", help=_BASE, envvar=_BASE_VARIABLE, show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Check that an adapter is complete, and with --base that it belongs to that model. Exit code 2 if not."""
    from ai_core.commands import console as out
    from synth.higgs_local.adapter import check_fit, read_adapter
    from synth.higgs_local.base_model import describe_folder
    from synth.higgs_local.lora import load_weights

    found = read_adapter(adapter)
    load_weights(found)
    warnings = () if base is None else check_fit(found, describe_folder(_base_folder(base), base))
    if as_json:
        out.print_json({**_as_dict(found), "checked_base": base, "warnings": list(warnings)})
        return
    out.print_rows(
        ("adapter", out.plain_text(f"{found.name}: {len(found.modules)} layers, rank {found.rank}, {len(found.rows)} token rows")),
        ("marks", ", ".join(f"{kind} as {mark.token} ({mark.id})" for kind, mark in found.marks.items()) or "none"),
        ("base", out.plain_text(f"{_base_name(found)}; {'not compared: give --base' if base is None else f'it fits {base}'}")),
        *(("warning", out.plain_text(warning)) for warning in warnings),
    )


@app.command()
def merge(
    adapter: AdapterFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write; it must not exist.")],
    base: Annotated[str | None, typer.Option("--base", help=_BASE, envvar=_BASE_VARIABLE, show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Merge an adapter into its model, for servers that load no adapters (vllm-omni). The scores are compared with PEFT's."""
    from ai_core.commands import console as out
    from prosody_tagger.command import people
    from prosody_tagger.errors import BadInput
    from synth.higgs_local.merge import merge as merged

    if base is None:
        raise BadInput(f"no model to merge into: give the adapter's base model with --base, or set {_BASE_VARIABLE}")
    with people().status("checking") as status:
        result = merged(adapter, _base_folder(base), output, status.update)
    if as_json:
        checked = {"error": result.error, "warnings": list(result.warnings)}
        out.print_json({"output": str(result.folder), "targets": result.targets, **checked})
        return
    out.print_rows(
        ("merged", out.plain_text(f"{result.folder} ({result.targets} layers, scores within {result.error:.1e} of PEFT's)")),
        *(("warning", out.plain_text(warning)) for warning in result.warnings),
    )


def _as_dict(adapter: "Adapter") -> dict[str, Any]:
    from dataclasses import asdict

    prosody = None if adapter.prosody is None else asdict(adapter.prosody)
    return {
        "name": adapter.name,
        "folder": str(adapter.folder),
        "marks": {kind: mark.id for kind, mark in adapter.marks.items()},
        "layers": len(adapter.modules),
        "rank": adapter.rank,
        "rows": list(adapter.rows),
        "prosody": prosody,
    }


def _base_name(adapter: "Adapter") -> str:
    return adapter.prosody.base.name if adapter.prosody else str(adapter.config.get("base_model_name_or_path") or "unknown")


def _base_folder(name: str) -> Path:
    from synth.higgs_local.checkpoint import MODEL_TYPE, find_checkpoint

    return find_checkpoint(name, None, MODEL_TYPE, "model")
