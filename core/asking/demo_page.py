"""The page of ``core.demo``, with gradio: what is seen and clicked. What it means is in ``scene``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.asking.opening import Side
from core.asking.scene import CLICKS, FRAMES, Scene
from core.contracts import UserError

MOST_MB = 200  # of one upload
SESSIONS = 20  # visitors whose pictures are kept at the same time
FORGOTTEN_S = 3600  # after which a visitor's picture and files go
CSS = ".answer textarea {font-size: 1.05rem} footer {display: none}"

Shown = list[Any]  # the region's picture, then text and picture of each side


def quiet(folder: Path) -> None:
    """Before gradio is imported: nothing is reported to anybody, and uploads lie in ``folder``."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = os.environ["GRADIO_RUN_HISTORY"] = os.environ["GRADIO_SHARE"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)


class _Handlers:
    """What events do: each takes the scene, changes it, and gives it back with all that is shown of it."""

    def __init__(self, gradio: Any, sides: Sequence[Side], most_new_tokens: int) -> None:
        self.gradio, self.sides, self.most = gradio, sides, most_new_tokens
        _Handlers.clicked.__annotations__["at"] = gradio.SelectData  # gradio looks for the class itself, not for its name

    def told(self, act: Callable[..., object]) -> Callable[..., Shown]:
        """The handler that does ``act``; what a user can put right becomes a message on the page."""

        def handle(scene: Scene, *given: Any) -> Shown:
            try:
                act(scene, *given)
                return [scene, *self._shown(scene)]
            except UserError as fault:
                raise self.gradio.Error(str(fault), print_exception=False) from None

        return handle

    def _shown(self, scene: Scene) -> Shown:
        outputs: list[Any] = [scene.shown()]
        for place in range(len(self.sides)):
            outputs += [scene.text(place), scene.shown(place) if scene.found else None]
        return outputs

    def opened(self, scene: Scene, file: str | None) -> Shown:
        """Another file, or none any more; the slider is there for a video's frames."""
        slider = self.gradio.Slider
        if file is None:
            return [Scene(kind=scene.kind), slider(visible=False), None, *["", None] * len(self.sides)]
        scene, *rest = self.told(Scene.open)(Scene(kind=scene.kind), Path(file))
        frames = len(scene.visual) if isinstance(scene.visual, list) else 1
        return [scene, slider(maximum=max(1, frames - 1), value=0, visible=frames > 1), *rest]

    def clicked(self, scene: Scene, at: Any) -> Shown:
        """A region that a click completes is described at once."""

        def act(scene: Scene) -> None:
            whole, scene.found = scene.click(*at.index), []
            if whole:
                scene.describe(self.sides, self.most)

        return self.told(act)(scene)

    def kind_chosen(self, scene: Scene, kind: str) -> None:
        scene.kind, scene.clicks = kind, []

    def cleared(self, scene: Scene) -> None:
        scene.clicks, scene.found = [], []

    def frame_chosen(self, scene: Scene, frame: float) -> None:
        scene.frame = int(frame)

    def describe(self, scene: Scene) -> None:
        scene.describe(self.sides, self.most)

    def segment(self, scene: Scene, phrase: str) -> None:
        scene.segment(self.sides, phrase, self.most)

    def ask(self, scene: Scene, question: str) -> None:
        scene.ask(self.sides, question, self.most)


def build_page(sides: Sequence[Side], title: str, examples: Sequence[Path], most_new_tokens: int) -> Any:
    """The page as gradio's ``Blocks``; ``quiet`` comes first."""
    import gradio as gr

    on = _Handlers(gr, sides, most_new_tokens)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(FORGOTTEN_S, FORGOTTEN_S)) as page:
        gr.Markdown(f"## {title}")
        scene = gr.State(Scene(), time_to_live=FORGOTTEN_S)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                label = f"Picture, or video (up to {FRAMES} frames)"
                file = gr.File(label=label, file_types=["image", "video"], height=110, elem_id="file")
                picture = gr.Image(label="Click into it", interactive=False, format="png", buttons=[], elem_id="picture")
                frame = gr.Slider(0, 1, step=1, label="frame", visible=False, elem_id="frame")
                kind = gr.Radio(list(CLICKS), value="a point", label="A click is", elem_id="kind")
                with gr.Row():
                    describe = gr.Button("Describe", elem_id="describe", min_width=100)
                    clear = gr.Button("Clear", min_width=80)
                words = gr.Textbox(label="A phrase, or a question", placeholder="the large red circle, then Find its mask", elem_id="words")
                with gr.Row():
                    segment = gr.Button("Find its mask", variant="primary", elem_id="segment", min_width=120)
                    question = gr.Button("Ask", elem_id="ask", min_width=80)
                if examples:
                    gr.Examples([str(example) for example in examples], inputs=[file], label="Examples")
            outputs = [picture]
            for number, side in enumerate(sides):
                with gr.Column(scale=2, min_width=280):
                    gr.Markdown(f"### {side.name}")
                    outputs.append(gr.Textbox(label="Answer", lines=2, interactive=False, elem_id=f"answer{number}", elem_classes="answer"))
                    outputs.append(
                        gr.Image(label="Masks", interactive=False, format="png", buttons=["fullscreen"], elem_id=f"masks{number}")
                    )
        every = [scene, *outputs]
        own = {"show_progress": "minimal", "api_visibility": "private"}
        file.change(on.opened, [scene, file], [scene, frame, *outputs], **own)
        picture.select(on.clicked, [scene], every, **own)
        kind.input(on.told(on.kind_chosen), [scene, kind], every, **own)
        frame.input(on.told(on.frame_chosen), [scene, frame], every, **own)
        clear.click(on.told(on.cleared), [scene], every, **own)
        describe.click(on.told(on.describe), [scene], every, **own)
        for event in (segment.click, words.submit):
            event(on.told(on.segment), [scene, words], every, **own)
        question.click(on.told(on.ask), [scene, words], every, **own)
    return page


def serve(page: Any, host: str, port: int | None) -> str:
    """Starts the server in a thread of its own; returns its address. Raises ``UserError`` where the port is taken."""
    import gradio as gr

    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            footer_links=[],
            run_history=False,
            max_file_size=MOST_MB * gr.FileSize.MB,
            state_session_capacity=SESSIONS,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=CSS,
        )
    except OSError as error:
        where = f"port {port}" if port else "a free port from 7860 on"
        raise UserError(f"{host}: {where} cannot be opened ({error}); give another --port or --host") from None
    return str(address)
