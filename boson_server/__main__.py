"""python -m boson_server --model FOLDER --codec FOLDER"""

import argparse
import logging
import os
from functools import partial
from pathlib import Path

import uvicorn

from .app import ServerOptions, create_app
from .request import VoiceRecording, as_wav, plain_text
from .worker import SpeechEngine


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m boson_server", description="HTTP server with OpenAI's speech API in front of boson_multimodal."
    )
    parser.add_argument("--model", required=True, help="folder or hub name of a checkpoint in the old format")
    parser.add_argument("--codec", required=True, help="folder or hub name of its codec in the old format")
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: %(default)s)")
    parser.add_argument("--voices", type=Path, help="folder with recordings of voices: NAME.wav, and NAME.txt with its transcript")
    parser.add_argument("--name", default=ServerOptions().name, help="the model's name in requests (default: %(default)s)")
    parser.add_argument(
        "--waiting", type=int, default=ServerOptions().waiting, help="requests that may wait (default: %(default)s)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    options = ServerOptions(
        name=arguments.name,
        voices=read_voices(arguments.voices) if arguments.voices else {},
        key=os.environ.get("BOSON_SERVER_API_KEY") or None,
        waiting=arguments.waiting,
    )
    app = create_app(partial(_engine, arguments.model, arguments.codec, arguments.device), options)
    uvicorn.run(app, host=arguments.host, port=arguments.port)


def read_voices(folder: Path) -> dict[str, VoiceRecording]:
    """Return the recordings of a folder that have a transcript, by name."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".wav", ".flac", ".mp3", ".ogg"))
    transcripts = {file: file.with_suffix(".txt") for file in files}
    return {
        file.stem: VoiceRecording(as_wav(file.read_bytes()), plain_text(text.read_text(encoding="utf-8")))
        for file, text in transcripts.items()
        if text.is_file()
    }


def _engine(model: str, codec: str, device: str) -> SpeechEngine:
    from .engine import BosonEngine

    return BosonEngine(model, codec, device)


if __name__ == "__main__":
    main()
