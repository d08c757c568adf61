"""What a user can do here, interaction by interaction, and the test that fails without it. Checked: every test named here exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent

LOVED = {
    "hover a token, and what belongs to it lights up": "test_inside_browser::test_one_selection_lights_up_everywhere_and_the_link_restores_it",
    "hover previews, a click locks": "test_inside_browser::test_one_selection_lights_up_everywhere_and_the_link_restores_it",
    "pick a layer and head in a matrix coloured by a metric": "test_inside_browser::test_heads_are_coloured_by_the_metric_one_chooses",
    "all heads at once in one picture": "test_inside_browser::test_theme_reaches_the_canvas",
    "scrub through the steps": "test_inside_browser::test_scrubbing_stays_in_the_browser_until_release",
    "tokens arrive one by one": "test_run_browser::test_cancel_keeps_a_part_and_a_reload_finds_the_job",
    "methods side by side": "test_compare_browser::test_one_scrubber_moves_all_maps_and_python_hears_of_the_release",
    "click a point of a curve, and its run opens": "test_tradeoffs_browser::test_a_task_a_click_and_the_run_behind_a_point",
    "a link brings the view back": "test_inside_browser::test_one_selection_lights_up_everywhere_and_the_link_restores_it",
    "take away a table, JSON, a page, a bundle": "test_export::test_a_bundle_imports_equal",
    "lessons": "test_lessons_browser::test_guess_then_result_by_keys_and_no_key_opens_a_dialog",
    "presets with stored results": "test_start_page::test_page_from_what_ships_loads_no_model_and_reads_files_once",
    "light and dark": "test_inside_browser::test_theme_reaches_the_canvas",
    "keyboard": "test_inside_browser::test_scrubbing_stays_in_the_browser_until_release",
    "place in the queue and time left": "test_jobs::test_place_and_wait_follow_the_rule",
    "cancel": "test_run_browser::test_cancel_keeps_a_part_and_a_reload_finds_the_job",
    "upload a prompt": "test_run_page::test_upload_becomes_the_prompt_or_a_sentence",
    "earlier runs": "test_library_page::test_the_list_holds_own_and_shipped_runs_with_their_figures",
    "the cost before a run, and how far it was off": "test_run_page::test_a_run_shows_tokens_and_keeps_its_link",
    "what is expensive only on demand": "test_inside::test_the_head_profile_is_drawn_when_it_is_asked_for",
    "a model of one's own": "test_run_browser::test_cancel_keeps_a_part_and_a_reload_finds_the_job",
    "long texts": "test_inside_browser::test_long_text_is_folded_and_opens",
    "quality against measured bytes": "test_tradeoffs_page::test_a_stored_sweep_is_drawn_with_its_sentences_tables_and_source",
}
"""What users of such tools love."""

NEW = {
    "first divergence": "test_inside::test_payload_holds_the_numbers_of_the_trace",
    "missing attention mass": "test_inside_browser::test_kinds_of_loss_are_said_in_words",
    "protect and rerun": "test_inside_browser::test_protect_and_rerun_shows_both_answers",
    "a tracked span": "test_inside_browser::test_a_tracked_span_stays_while_other_tokens_are_locked",
    "attention on several tokens, added up": "test_inside_browser::test_a_tracked_span_stays_while_other_tokens_are_locked",
    "a sweep from the page, point by point": "test_builder::test_from_a_file_of_questions_to_points_on_the_page",
    "a sweep that goes on where it stopped": "test_builder::test_a_sweep_is_a_job_for_each_point_and_goes_on_where_it_stopped",
}
"""What no other such tool was found to have."""

FLOWS = {
    "a preset opens with stored results and no GPU": "test_start_browser::test_maps_are_drawn_and_open_leads_into_the_run",
    "run, live tokens, cancel, the partial run is listed": "test_run_browser::test_cancel_keeps_a_part_and_a_reload_finds_the_job",
    "a reload during a run finds it again": "test_run_browser::test_cancel_keeps_a_part_and_a_reload_finds_the_job",
    "of two visitors the second waits, and starts after a cancel": "test_flows_browser::test_two_visitors_share_one_model_and_the_second_waits_for_the_first",
    "arrow keys scrub, Python hears of the release": "test_inside_browser::test_scrubbing_stays_in_the_browser_until_release",
    "a point opens its run by a click": "test_tradeoffs_browser::test_a_task_a_click_and_the_run_behind_a_point",
    "a point opens its run by keyboard": "test_flows_browser::test_points_open_their_run_by_keyboard_and_files_of_a_figure_stand_alone",
    "a copied link opens the same step, layer and head": "test_inside_browser::test_one_selection_lights_up_everywhere_and_the_link_restores_it",
    "a bundle comes back equal": "test_library_browser::test_a_bundle_goes_out_and_comes_in_again",
    "CSV and JSON parse, the HTML page fetches nothing": "test_flows_browser::test_points_open_their_run_by_keyboard_and_files_of_a_figure_stand_alone",
    "a hostile prompt is text and fetches nothing": "test_flows_browser::test_hostile_text_of_100_kb_is_text_on_every_page_that_shows_runs",
    "contrast of both themes, 390 px, the Tab key": "test_flows_browser::test_all_pages_can_be_read_in_both_schemes_fit_a_telephone_and_are_reached_by_tab",
    "a sweep starts from Trade-offs": "test_flows_browser::test_a_sweep_starts_from_trade_offs_and_its_points_appear",
    "Reproduce fills the form": "test_flows_browser::test_reproduce_in_the_library_fills_the_form_and_the_bundled_model_writes_the_same_again",
    "the researcher's walk": "test_walks_browser::test_a_researcher_comes_from_a_cold_tab_to_a_pair_to_a_point_to_files",
    "the teacher's walk": "test_walks_browser::test_a_teacher_gives_a_whole_lesson_from_stored_runs_at_the_back_row",
    "the engineer's walk": "test_walks_browser::test_an_engineer_gets_a_setting_with_its_formulas_evidence_and_limits",
}
"""What people do from beginning to end, all of it in a real browser."""


@pytest.mark.parametrize(("interaction", "test"), [*LOVED.items(), *NEW.items(), *FLOWS.items()])
def test_every_interaction_has_a_test(interaction: str, test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((HERE / f"{file}.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert name in functions, f"{interaction}: {test} is not there"
    nodes = list(ast.walk(functions[name]))
    waits = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr.startswith(("wait_for", "to_"))]  # these fail too
    assert waits or any(isinstance(node, ast.Assert) for node in nodes), f"{interaction}: {test} checks nothing"


def test_the_list_is_complete() -> None:
    assert len(LOVED) == 23 and not set(LOVED) & set(NEW)
    assert all("_browser::" in test for test in FLOWS.values())
