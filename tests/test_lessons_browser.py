"""Lessons in a real browser: keys, guess before result, links and progress, presenter mode from the back row, a narrow screen."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browser import settled

from kvlab.lessons import Lesson, lessons

pytestmark = pytest.mark.browser
LESSONS = {lesson.id: lesson for lesson in lessons()}


def learn(page: Any, server: str, lesson: str, step: int = 1, present: bool = False) -> None:
    """Open a step and wait until the component has drawn it."""
    page.goto(f"{server}/learn?lesson={lesson}&step={step}" + "&present=1" * present, wait_until="commit")
    page.locator(".lesson footer .act.main").wait_for()
    settled(page)


def number(page: Any, step: int) -> None:
    """Wait until the lesson stands at this step."""
    page.locator(".lesson .count", has_text=re.compile(rf"^{step} of ")).wait_for()


def asked(lesson: Lesson) -> int:
    """The first step with a question, counted from 1."""
    return next(number for number, step in enumerate(lesson.steps, 1) if step.question)


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_guess_then_result_by_keys_and_no_key_opens_a_dialog(page: Any, server: str) -> None:
    """Without it: a result that shows before the guess, a presenter stuck on a key, Streamlit's own r and c."""
    lesson = LESSONS["budgets"]
    at = asked(lesson)
    learn(page, server, "budgets", at)
    choices = page.locator(".lesson .choice")
    assert page.locator(".lesson .reveal").inner_text() == "" and page.locator(".lesson svg .unknown").count() > 0
    page.keyboard.press("Space")  # nothing is shown: the choice comes first
    page.locator(".lesson .choice:focus").wait_for()
    assert page.locator(".lesson .reveal").inner_text() == ""
    page.keyboard.press("1")
    page.locator(".lesson .choice.right").wait_for()
    assert (
        page.locator(".lesson .reveal").inner_text() and page.locator(".lesson svg .unknown").count() == 0 and page.locator(".lesson svg .guess").count() == 1
    )
    assert choices.first.is_disabled() and "your guess" in choices.first.inner_text() and "You guessed" in page.locator(".lesson .status").inner_text()
    page.keyboard.press("Space")
    number(page, at + 1)
    page.wait_for_url(re.compile(rf"step={at + 1}"))
    page.keyboard.press("Backspace")
    number(page, at)
    assert page.locator(".lesson .choice.mine").count() == 1, "the guess stays"
    page.keyboard.press("ArrowLeft")
    number(page, at - 1)
    page.wait_for_url(re.compile(rf"step={at - 1}"))
    for key in ("r", "c", "Escape"):
        page.keyboard.press(key)
    settled(page)
    assert page.get_by_role("dialog").count() == 0 and page.locator(".lesson").is_visible()


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_link_restores_the_step_and_the_session_its_progress(page: Any, server: str) -> None:
    """Without it: slides that link to the wrong step, guesses lost on the way back from Look inside."""
    lesson = LESSONS["growth"]
    at = asked(lesson)
    learn(page, server, "growth", at)
    page.keyboard.press("2")
    page.locator(".lesson .choice.mine").wait_for()
    settled(page)
    page.get_by_role("link", name="Open this in Look inside").click()
    page.locator(".inside .tok").first.wait_for()
    page.get_by_role("link", name="Lessons", exact=True).click()
    page.get_by_text(re.compile(r"1 of \d steps seen")).wait_for()
    page.locator(".kv-lessons").get_by_role("link", name=lesson.title).click()
    page.locator(".lesson .choice.mine").wait_for()
    number(page, at)
    fresh = page.context.new_page()
    fresh.set_default_timeout(180_000)
    fresh.goto(f"{server}/learn?lesson=growth&step=3", wait_until="commit")
    fresh.get_by_role("heading", name=lesson.steps[2].title).wait_for()
    number(fresh, 3)


def test_the_back_row_can_read_every_step(page: Any, server: str, scheme: str) -> None:
    """Without it: small or cut labels in presenter mode, chrome over the title, a dark page with light ink."""
    page.set_viewport_size({"width": 1280, "height": 720})
    lesson = LESSONS["budgets" if scheme == "dark" else "sinks"]
    learn(page, server, lesson.id, 1, present=True)
    assert page.locator("[data-testid='stHeader']").is_hidden()
    ink = page.locator(".lesson h1").evaluate("node => getComputedStyle(node).color")
    assert ink == {"light": "rgb(22, 24, 27)", "dark": "rgb(237, 239, 241)"}[scheme]
    for step in range(1, len(lesson.steps) + 1):
        number(page, step)
        if lesson.steps[step - 1].question:
            page.keyboard.press("Space")  # in front of a class the room guesses aloud
            page.locator(".lesson .reveal b").first.wait_for()
        page.locator(".lesson .stage svg, .lesson .passage").first.wait_for()
        cut = page.locator(".lesson").evaluate(
            """(lesson) => {
            const stage = lesson.querySelector('.stage').getBoundingClientRect(), foot = lesson.querySelector('footer').getBoundingClientRect(), found = [];
            for (const node of lesson.querySelectorAll('svg text, .passage span, .say, .reveal, h1')) {
              const box = node.getBoundingClientRect(), size = parseFloat(getComputedStyle(node).fontSize), name = node.textContent.slice(0, 30);
              if (!node.textContent) continue;
              if (size < 15) found.push(`${name}: ${size} px`);
              if (box.left < 0 || box.right > innerWidth + 1 || box.bottom > foot.top + 1) found.push(`${name}: off the screen`);
              if (node.tagName === 'text' && (box.top < stage.top - 3 || box.bottom > stage.bottom + 3)) found.push(`${name}: cut`);
            } return found; }"""
        )
        assert not cut, (lesson.id, step, cut)
        if step < len(lesson.steps):
            page.keyboard.press("PageDown")


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_table_copy_and_a_narrow_screen(page: Any, server: str) -> None:
    """Without it: a picture that has no words, a link that cannot be taken along, sideways scrolling on a telephone."""
    page.set_viewport_size({"width": 390, "height": 844})
    learn(page, server, "curves", 2)
    assert page.get_by_role("img", name=re.compile("Which points matter")).is_visible()
    for _ in LESSONS["curves"].steps[2:]:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.querySelector(\"[data-testid='stMain']\").scrollWidth") <= 390
        if page.locator(".lesson .choice:enabled").count():
            page.keyboard.press("1")
            page.locator(".lesson .choice.right").wait_for()
        page.keyboard.press("PageDown")
    page.locator(".lesson").get_by_role("button", name="Show as table").click()
    assert page.locator(".lesson .twin tr").count() > 5 and page.get_by_role("img", name=re.compile("Now read")).count() == 0
    page.locator(".lesson").get_by_role("button", name="Copy link").click()
    copied = page.locator(".lesson .linkfield").or_(page.get_by_text("Copied: same runs for every student"))
    copied.wait_for()
    settled(page)
