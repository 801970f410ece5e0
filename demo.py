"""A page to try the scores in a browser: drop a colorized image, or several versions of one scene.

    pip install -r requirements-demo.txt
    python demo.py                                   # http://127.0.0.1:7860, for this machine alone
    python demo.py --host 0.0.0.0 --port 8000        # for everyone who reaches this machine

It shows the three scores with the shipped weights, their place among real photographs, where colors surprise, and, with a YOLO
file, objects with unusual colors. Nothing is fetched from elsewhere, and dropped files are deleted within three minutes.
"""

import base64
import contextlib
import csv
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from utils import startup
from utils.arguments import ScriptParser

startup.begin()

MOST_FILES = 12  # dropped at once
MOST_MEGABYTES = 30  # of a file; the reader of images takes up to 100 megapixels
KEPT_SECONDS = 120  # that a dropped file lies on the disk at least, so that it is there when its turn comes
SAMPLES = Path(__file__).resolve().parent / "data" / "samples"

INTRO = f"""# ICQA: how good is a colorized image?

Drop one colorized image, or several colorizations of one scene together. Each is judged by itself, without its original, in
three scores from -1 to 1; **higher is better**.

- **PR**, Perceptual Realism: would a person take it for a photograph?
- **CF**, Chromatic Fidelity: is the color clean, without stains, bleeding, gray patches or oversaturation?
- **SCC**, Semantic Color Consistency: does each thing have a color that such a thing can have?

Up to {MOST_FILES} files of {MOST_MEGABYTES} MB at once. They are deleted within three minutes, and nothing leaves the machine
that runs this page."""

LIMITS = """
- Compare versions of one scene. The score of one scene says little about the score of another, and zero is no threshold.
- **Agreement with people is far from that of people with one another**, above all on the outputs of real colorizers. Use the
  scores to rank many images, not to judge one.
- A plausible color is not the true one: nobody here knows what the scene looked like.
- Gray patches are hardly noticed, and how much chroma is right is hardly known.
- Things that may have any color, paintings, night scenes and toned photographs are outside of what was learned.
- The networks see 224 x 224 pixels: a fault on a small object is not seen.

The same scores from the shell: `python infer_PR.py FOLDER`. How large a difference means something: docs/reading_scores.md."""

EXAMPLES_STYLE = """<style>
#examples .html-container.html-container, #judgment .html-container.html-container { padding: 0 }
#examples div { display: flex; flex-wrap: wrap; gap: 8px }
#examples button { height: 84px; padding: 0; border: 1px solid #8888; border-radius: 6px; overflow: hidden; cursor: pointer }
#examples button:focus-visible { outline: 3px solid #2468a8 }
@media (max-width: 640px) { #examples button { height: 56px } }
#examples img { height: 100%; width: auto; margin: 0 }
</style>"""
ON_EXAMPLE = """element.addEventListener("click", event => {
    const button = event.target.closest("button[data-scene]")
    if (button) trigger("click", {scene: Number(button.dataset.scene)})
})"""

TO_JUDGMENT = "() => { document.getElementById('judgment').scrollIntoView({behavior: 'smooth'}); return null }"

# Gradio names a few addresses elsewhere in its page; the browser is told to load nothing from there.
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; base-uri 'self'; form-action 'self'"
)


def parse_args() -> Any:
    parser = ScriptParser(__doc__, groups=("run",))
    add = parser.groups["run"].add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for other machines too (default: %(default)s)")
    add("--port", type=int, help="default: the first free one from 7860 on")
    add("--share", action="store_true", help="also a public address, through the servers of Gradio")
    parser.limits["port"] = (1, 65535)
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

from PIL import Image

from inference import command
from report.judgment import Judge, to_csv


def judge_files(judge: Judge, paths: Sequence[str] | None) -> tuple[str, str]:
    """Judge dropped files.

    Returns:
        The judgments as HTML, and the scores as CSV; for too many files, a line that says so and an empty text.
    """
    if not paths:
        return "", ""
    if len(paths) > MOST_FILES:
        return f"<p>{len(paths)} files came at once; drop up to {MOST_FILES}. For a folder: python infer_PR.py FOLDER</p>", ""
    judgments = judge([Path(path) for path in paths])
    return judge.html(judgments), to_csv(judgments)


def sample_scenes() -> list[list[str]]:
    """The versions of each scene of the samples, the photograph first."""
    with open(SAMPLES / "samples.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    scenes: dict[str, list[str]] = {row["scene"]: [] for row in rows}
    for row in rows:
        scenes[row["scene"]].append(str(SAMPLES / row["image"]))
    return [sorted(paths, key=lambda path: not Path(path).name.startswith("ORG")) for paths in scenes.values()]


def examples_html(scenes: Sequence[Sequence[str]]) -> str:
    """The photographs of scenes as buttons."""
    buttons = []
    for number, paths in enumerate(scenes):
        image, file = Image.open(paths[0]), io.BytesIO()
        image.thumbnail((160, 160))
        image.save(file, "JPEG")
        source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        buttons.append(f'<button type="button" data-scene="{number}"><img src="{source}" alt="example {number + 1}"></button>')
    return f"{EXAMPLES_STYLE}<div>{''.join(buttons)}</div>"


def build_page(judge: Judge) -> Any:
    """The page, to be launched."""
    import gradio as gr  # only here, for it is an extra

    scenes = sample_scenes()
    with gr.Blocks(title="ICQA", analytics_enabled=False) as page:
        gr.Markdown(INTRO)
        files = gr.File(label="images (and YOLO label files)", file_count="multiple", height=150)
        gr.Markdown("Or take an example, a photograph among versions of it with planted faults:")
        examples = gr.HTML(examples_html(scenes), apply_default_css=False, js_on_load=ON_EXAMPLE, elem_id="examples")
        shown = gr.HTML(apply_default_css=False, elem_id="judgment")
        with gr.Accordion("Scores as CSV", open=False):
            table = gr.Textbox(show_label=False, lines=4, max_lines=15, buttons=["copy"], interactive=False, elem_id="csv")
        with gr.Accordion("What the scores do not say", open=False):
            gr.Markdown(LIMITS)

        def of_files(paths: list[str] | None) -> tuple[str, str]:
            return judge_files(judge, paths)

        def of_example(event: gr.EventData) -> tuple[str, str]:
            return judge_files(judge, scenes[event.scene])

        how: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "judge"}
        dropped = files.upload(of_files, files, [shown, table], api_name="judge", **how)
        clicked = examples.click(of_example, None, [shown, table], api_visibility="private", **how)
        for done in (dropped, clicked):  # the files are deleted soon
            done.then(None, None, files, js=TO_JUDGMENT, api_visibility="private")
    return page


class Headers:
    """ASGI middleware that adds headers to every answer.

    Args:
        app: What answers.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", CONTENT_POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def delete_old(folder: Path, seconds: float) -> None:
    """Delete what lies below a folder and is older, both files and empty folders."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        with contextlib.suppress(OSError):  # it is gone, or the folder is not empty
            if time.time() - path.lstat().st_ctime > seconds:
                path.rmdir() if path.is_dir() else path.unlink()


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder for what Gradio puts on the disk, removed at the end.

    Gradio itself deletes no upload, and leaves parts of those that are broken off or too large.
    """
    with tempfile.TemporaryDirectory(prefix="icqa_demo_", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ["GRADIO_TEMP_DIR"]


def run_page(host: str, port: int | None, share: bool = False) -> None:
    """Show the page until the process is interrupted or terminated.

    Raises:
        ValueError: If gradio is not installed.
        OSError: If it cannot listen there.
    """
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with upload_folder() as folder:
        try:
            import gradio  # not before its folder is known
            from starlette.middleware import Middleware
        except ImportError as error:
            raise ValueError("demo.py needs gradio: pip install -r requirements-demo.txt") from error
        page = build_page(Judge())
        fonts = [gradio.themes.Font("system-ui"), gradio.themes.Font("sans-serif")]
        _, address, public = page.queue(max_size=20).launch(
            server_name=host,
            server_port=port,
            share=share,
            max_file_size=MOST_MEGABYTES * 2**20,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            footer_links=[],
            run_history=False,  # which browsers would keep
            enable_monitoring=False,
            ssr_mode=False,
            theme=gradio.themes.Default(font=fonts, font_mono=fonts),
            app_kwargs={"middleware": [Middleware(Headers)]},
        )
        print(f"page: {address}{f', and for everyone {public}' if public else ''} (Ctrl-C ends it)", flush=True)
        try:
            while True:
                time.sleep(20)
                delete_old(folder, KEPT_SECONDS)
        finally:
            page.close(verbose=False)


def main() -> int:
    args = parse_args()
    try:
        run_page(args.host, args.port, args.share)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


if __name__ == "__main__":
    command.run_script(main)
