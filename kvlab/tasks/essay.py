"""Essay-like filler from a small grammar: subject, verb, object, adverb, at least 200 words for each.

It stands where RULER and needle-in-a-haystack put Paul Graham's essays, which may not be shipped. With this many words no sentence
comes twice by chance, so a needle is not the one sentence that is new.
"""

from __future__ import annotations

import random

_NOUNS = """ability absence accident account advantage advice affair agreement aim ambition amount analogy answer anxiety apology appeal approach
    argument arrangement article aspect assumption attempt attitude audience author aversion balance barrier basis behaviour belief benefit
    bias boundary burden calculation career case category cause caution century chance change chapter character choice circumstance claim
    clarity comfort comment commitment community comparison complaint compromise concept concern conclusion condition confidence conflict
    consequence contrast conversation conviction courage craft credit crisis criticism culture curiosity custom danger debate decade decision
    defeat definition delay demand design desire detail difference difficulty dignity direction disagreement discovery distance doubt draft
    duty economy education effect effort emotion emphasis enthusiasm error essay estimate event evidence example excuse exercise expectation
    experience experiment explanation failure faith fashion fault favour fear fiction focus fortune freedom friendship future generation goal
    grammar habit hesitation history hope hypothesis idea ideal illusion impression improvement impulse incident influence insight instinct
    institution intention interest interval intuition invention investment journey judgment justice knowledge language law lecture lesson
    letter liberty limit logic loss loyalty luxury majority manner margin meaning measure memory method minority mistake mood motive mystery
    myth narrative necessity neglect notion objection obligation observation obstacle occasion opinion opportunity option origin outcome pace
    paradox passion patience pattern pause perspective plan pleasure poem policy possibility practice precision preference prejudice
    presence pressure pride principle priority privilege problem profession profit progress promise proof proposal prospect purpose puzzle
    question reason reform regret relation remark remedy reputation research respect response result revision reward rhythm risk ritual
    routine rumour sacrifice scheme scope scruple sentence sentiment shame silence skill solution sorrow standard statement strategy struggle
    study style subject success suggestion surprise suspicion symbol sympathy talent taste temptation tendency tension theory thesis thought
    tradition trait treaty trend trial trust truth uncertainty value variety venture verdict virtue vision warning weakness wisdom wit wonder
    worry youth""".split()
_VERBS = """abandoned absorbed accepted accompanied accused acquired adapted admitted adopted advanced affected allowed altered amplified
    announced anticipated approached approved arranged assumed attacked attracted avoided awaited balanced betrayed blamed blocked blurred
    branded broadened calmed cancelled caused celebrated challenged changed cherished chose clarified coloured combined commanded compared
    compelled completed complicated concealed concerned condemned confirmed confronted confused conquered considered consoled contained
    continued contradicted controlled converted conveyed corrected created criticised cultivated cured damaged darkened declared decided
    deepened defeated defended defied defined delayed delighted demanded denied described deserved destroyed detected determined directed
    discarded discouraged discovered disguised dismissed displaced disproved disturbed divided dominated doubted dreaded earned eased echoed
    embraced emphasised enabled encountered encouraged endured enhanced enjoyed enlarged ensured entered equalled escaped established
    estimated evaluated exaggerated examined exceeded excluded excused exhausted expanded expected explained explored exposed expressed
    extended favoured feared finished followed forced formed fostered framed frustrated fulfilled generated governed guided halted hastened
    haunted heightened helped honoured ignored illustrated imagined imitated implied improved included increased indicated inferred
    influenced informed inherited inspired interpreted interrupted introduced invented invited isolated joined judged justified lacked
    launched lessened limited loosened magnified maintained mastered mattered mentioned missed mistrusted mocked modified multiplied narrowed
    neglected obscured observed obtained offended opposed outlived overcame overlooked permitted persuaded postponed praised preceded
    predicted preferred preserved prevented produced promised prompted protected proved provoked questioned reached recalled recognised
    reconciled recorded reduced refined reflected refused regretted reinforced rejected released renewed repeated replaced represented
    resembled resisted resolved restored revealed reversed revised rewarded ruined satisfied separated settled shaped shared shifted
    simplified softened solved spoiled started stretched strengthened suggested supported surpassed surprised survived sustained tempered
    tested threatened tolerated transformed translated undermined united unsettled valued weakened weighed welcomed widened yielded""".split()
_ADVERBS = """abruptly absently accurately actively admittedly aimlessly amply angrily anxiously apparently arguably automatically awkwardly
    badly barely bitterly blindly bluntly boldly bravely briefly brilliantly broadly calmly carefully carelessly casually cautiously
    certainly cheaply cheerfully clearly cleverly closely coldly commonly completely consciously consistently constantly continually
    conveniently correctly critically crudely curiously decently decisively deeply deliberately delicately directly discreetly distinctly
    doubtfully dramatically dutifully eagerly easily effectively efficiently elaborately eloquently endlessly entirely equally eventually
    evidently exactly explicitly faintly fairly faithfully falsely famously fatally feebly finally firmly fluently fondly foolishly
    forcefully formally frankly freely frequently fully fundamentally generally generously gently genuinely gladly gradually gratefully
    greatly grimly habitually happily harmlessly harshly heavily helpfully hesitantly highly honestly hopefully humbly hurriedly ideally
    immediately immensely imperfectly implicitly impulsively inadvertently incidentally indirectly inevitably innocently instantly
    intensely intentionally invariably ironically jealously jointly justly keenly kindly knowingly largely lately lazily lightly literally
    loosely loudly loyally mainly markedly merely mildly miserably modestly mostly mutually naively narrowly naturally neatly needlessly
    nervously neutrally nicely nobly normally notably obediently obliquely obviously occasionally oddly officially openly ordinarily
    outwardly painfully partially partly passively patiently peacefully perfectly periodically permanently personally plainly playfully
    politely poorly precisely presumably primarily privately profoundly promptly properly proudly prudently publicly purely quickly quietly
    radically randomly rapidly rarely rationally readily reasonably recently recklessly regularly reliably reluctantly repeatedly
    respectfully rigidly roughly rudely sadly safely scarcely secretly seldom sensibly separately seriously severely sharply shortly
    silently simply sincerely slightly slowly smoothly softly solemnly specifically steadily sternly stiffly strangely strictly strongly
    stubbornly subtly suddenly sufficiently swiftly tacitly temporarily thoroughly thoughtfully tightly tragically truly typically
    ultimately unexpectedly unfairly uniformly universally unusually usually utterly vaguely vastly violently visibly vividly wearily
    wholly widely wildly willingly wisely wrongly""".split()
_OPENINGS = ("", "", "", "", "In the end, ", "As a rule, ", "Even so, ", "For some, ", "At first, ", "Of course, ", "In practice, ", "Now and then, ")
_FIRST = ("the", "this", "every", "that", "each", "our")
_SECOND = ("the", "its", "their", "our", "any", "that")


def sentence(rng: random.Random) -> str:
    """One sentence, a space before it, such as " Of course, every argument quietly shaped our notion of patience."."""
    subject, thing, of = (rng.choice(_NOUNS) for _ in range(3))
    verb, how = rng.choice(_VERBS), rng.choice(_ADVERBS)
    start = f"{rng.choice(_OPENINGS)}{rng.choice(_FIRST)} {subject}"
    end = f"{rng.choice(_SECOND)} {thing}" + (f" of {of}" if rng.random() < 0.4 else "")
    text = f"{start} {how} {verb} {end}." if rng.random() < 0.5 else f"{start} {verb} {end} {how}."
    return f" {text[0].upper()}{text[1:]}"
