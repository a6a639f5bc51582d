"""python -m boson_server --model FOLDER --codec FOLDER"""

import argparse
import logging
import os
from functools import partial
from pathlib import Path

import uvicorn

from .app import Options, create_app
from .request import Recording, as_wav, plain_text
from .worker import Engine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m boson_server", description="boson_multimodal behind OpenAI's speech form.")
    parser.add_argument("--model", required=True, help="folder or hub name of a checkpoint in the old form")
    parser.add_argument("--codec", required=True, help="folder or hub name of its codec in the old form")
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: %(default)s)")
    parser.add_argument("--voices", type=Path, help="folder with NAME.wav and NAME.txt, recordings to speak in")
    parser.add_argument("--name", default=Options().name, help="the model's name in requests (default: %(default)s)")
    parser.add_argument("--waiting", type=int, default=Options().waiting, help="requests that may wait (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at (default: %(default)s)")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    options = Options(
        name=chosen.name,
        voices=read_voices(chosen.voices) if chosen.voices else {},
        key=os.environ.get("BOSON_SERVER_API_KEY") or None,
        waiting=chosen.waiting,
    )
    app = create_app(partial(_engine, chosen.model, chosen.codec, chosen.device), options)
    uvicorn.run(app, host=chosen.host, port=chosen.port)


def read_voices(folder: Path) -> dict[str, Recording]:
    """The recordings of a folder that have their words beside them, by name."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".wav", ".flac", ".mp3", ".ogg"))
    spoken = {file: file.with_suffix(".txt") for file in files}
    return {
        file.stem: Recording(as_wav(file.read_bytes()), plain_text(text.read_text(encoding="utf-8")))
        for file, text in spoken.items()
        if text.is_file()
    }


def _engine(model: str, codec: str, device: str) -> Engine:
    from .engine import BosonEngine

    return BosonEngine(model, codec, device)


if __name__ == "__main__":
    main()
