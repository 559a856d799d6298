"""BM25 in languages other than English, and in code: answers are found, and nothing without a common word is."""

# ruff: noqa: E501, RUF001  (sentences of other languages; letters of other scripts look like Latin ones)

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from data.bm25 import BM25
from data.candidates import BM25Candidates, ListedCandidates
from data.collection import Collection
from data.formats.beir import BEIRConfig
from data.languages import LANGUAGES, detect
from data.sampling.list_options import ListOptions
from data.words import TextAnalyzer, _announce
from evaluation.metrics import measure
from evaluation.reranking_evaluator import RerankingConfig, candidate_recall
from launch.cli.compose import load
from recipes.evaluate.run import evaluate
from recipes.training_run import train

Texts = tuple[str, str]  # a document and the query that it answers
SIZE = 200


def _chinese(rng: random.Random, number: int) -> Texts:
    thing = rng.choice(["打印机", "洗衣机", "自行车", "照相机", "电饭锅"]) + rng.choice("甲乙丙丁戊己庚辛")
    part = rng.choice(["电池", "开关", "齿轮", "屏幕", "水管"]) + rng.choice("天地人和东西南北")
    return f"这是{thing}的说明。{part}坏了请更换，型号{number}。", f"型号{number}的{thing}怎样更换{part}"


def _hindi(rng: random.Random, number: int) -> Texts:
    thing = rng.choice(["मशीन", "किताब", "साइकिल", "खिड़की", "कुर्सी", "घड़ी"])
    place = rng.choice(["दिल्ली", "मुंबई", "कोलकाता", "जयपुर", "पुणे", "भोपाल"])
    colour = rng.choice(["लाल", "नीली", "पीली", "हरी", "काली", "सफ़ेद"])
    return f"{colour} {thing} {place} में बनती है और उसका क्रम {number} है", f"{place} में {colour} {thing} {number} कैसी है"


def _thai(rng: random.Random, number: int) -> Texts:
    thing = rng.choice(["เครื่องซักผ้า", "จักรยาน", "กล้องถ่ายรูป", "หม้อหุงข้าว", "พัดลม", "ตู้เย็น"])
    place = rng.choice(["เชียงใหม่", "ภูเก็ต", "ขอนแก่น", "สงขลา", "กรุงเทพ", "น่าน"])
    colour = rng.choice(["สีแดง", "สีเขียว", "สีเหลือง", "สีน้ำเงิน", "สีดำ"])
    return f"{thing}{colour}รุ่น{number}ผลิตที่{place}และขายทั่วประเทศ", f"{thing}{colour}รุ่น{number}ผลิตที่ไหน"


def _code(rng: random.Random, number: int) -> Texts:
    verb, noun = rng.choice(["load", "parse", "merge", "split"]), rng.choice(["user", "index", "query", "token"])
    kind, sign = rng.choice(["name", "table", "count", "list"]), rng.choice(["<", ">", "<=", "!=", "=="])
    x, y = rng.sample("abcdijkmnpqxyz", 2)
    snake = number % 2
    name = f"{verb}_{noun}_{kind}" if snake else f"{verb}{noun.title()}{kind.title()}"
    query = f"{verb} {noun} {kind} when {x} {sign} {y}" if number % 3 else f"{name} {x}{sign}{y}"
    return f"def {name}(self):\n    if {x} {sign} {y}:\n        return {x}[{number % 7}]", query


GENERATORS: dict[str, Callable[[random.Random, int], Texts]] = {
    "chinese": _chinese,
    "hindi": _hindi,
    "thai": _thai,
    "english": _code,
}


@pytest.mark.parametrize("language", GENERATORS)
def test_planted_answers_are_found(language: str):
    rng = random.Random(15)
    pairs = [GENERATORS[language](rng, number) for number in range(SIZE)]
    documents = {f"d{i}": document for i, (document, _) in enumerate(pairs)}
    queries = {f"q{i}": query for i, (_, query) in enumerate(pairs)}
    found = detect(list(documents.values()))
    assert (found.language, found.is_code) == (language, language == "english")
    assert found.has_bigrams == (language in ("chinese", "thai"))
    run = BM25().retrieve(documents, queries, 10)
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(SIZE)}
    assert measure(qrels, run, ["recall@10"])["recall@10"] >= 0.9
    assert len({tuple(found) for found in run.values()}) > SIZE / 4  # not one list for all


SMALL = {
    "japanese": (
        ["コンピューターの使い方を説明します", "猫は魚が好きです", "電車で東京へ行きます"],
        "東京に行く電車",
        2,
    ),
    "korean": (["서울에서 기차를 탄다", "고양이는 생선을 좋아한다", "컴퓨터를 고치는 방법"], "고양이가 좋아하는 것", 1),
    "german": (
        [
            "Der Zug fährt in die alten Häuser der Stadt",
            "Die Katze mag den Fisch und das Wasser",
            "Wie man das Rad repariert",
        ],
        "Reparieren von Rädern in einem Haus",
        2,
    ),
    "russian": (
        ["Поезд идёт в Москву из города", "Кошка любит рыбу и молоко", "Как починить старый велосипед"],
        "рыба для кошки",
        1,
    ),
    "arabic": (
        ["يذهب القطار إلى المدينة في الصباح", "تحب القطة السمك", "كيف تصلح الدراجات القديمة"],
        "إصلاح الدراجة",
        2,
    ),
    "khmer": (["រថភ្លើងទៅទីក្រុង", "ឆ្មាចូលចិត្តត្រី", "របៀបជួសជុលកង់"], "ឆ្មាស៊ីត្រី", 1),
    "lao": (["ລົດໄຟໄປເມືອງ", "ແມວມັກປາ", "ວິທີສ້ອມແປງລົດຖີບ"], "ແມວກິນປາ", 1),
    "burmese": (["ရထားသည်မြို့သို့သွားသည်", "ကြောင်သည်ငါးကိုကြိုက်သည်", "စက်ဘီးပြင်နည်း"], "ငါးစားသောကြောင်", 1),
    "greek": (["Το τρένο πάει στην πόλη", "Η γάτα αγαπά τα ψάρια", "Πώς φτιάχνω το ποδήλατο"], "γάτες και ψάρι", 1),
    "tamil": (["ரயில் நகரத்திற்கு செல்கிறது", "பூனை மீன் விரும்புகிறது", "மிதிவண்டி பழுது"], "பூனை மீன்", 1),
}


@pytest.mark.parametrize("language", SMALL)
def test_small_corpora_of_other_languages(language: str):
    texts, query, answer = SMALL[language]
    assert detect(texts * 3).language == language
    found = BM25().retrieve({str(i): text for i, text in enumerate(texts * 3)}, {"q": query}, 9)["q"]
    assert int(next(iter(found))) % 3 == answer


def test_languages_of_one_script_are_told_apart():
    texts = {
        "french": "Le chat est sur la table et il ne mange pas avec les autres dans une maison qui est au bord de la mer.",
        "spanish": "El gato está en la mesa y no come con los otros en una casa que es de la familia para el invierno.",
        "italian": "Il gatto è sulla tavola e non mangia con gli altri nella casa che è della famiglia per una notte.",
        "dutch": "De kat zit op de tafel en eet niet met de andere katten in het huis dat aan de zee van hun ligt.",
        "swedish": "Katten är på bordet och äter inte med de andra som är i ett hus vid havet, att han var där om natten.",
        "polish": "Kot jest na stole i nie je z innymi, ale mówi się, że po nocy jak był w domu, to od razu za nim szedł.",
        "finnish": "Kissa on pöydällä ja se ei syö muiden kanssa, mutta hän on myös talossa, joka oli meren luona kun satoi.",
        "turkish": "Kedi masada ve bir evde diğerleri ile yemek için çok bekledi, ama bu ev deniz kadar uzak değil, daha yakın.",
        "none": "Con mèo là của người và không được cho các con khác trong một nhà này, để có những ngày như đã nói.",
        "english": "The cat is on the table and does not eat with the others in a house that is by the sea for the night.",
    }
    for language, text in texts.items():
        assert detect([text]).language == language
    assert detect(["Це кіт, який не їсть, як і що та або для нас"]).language == "none"
    assert detect(["این گربه است که با آن می خورد"]).language == "persian"


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["", "  ", "123 456"],
        ["der die das"],  # short
        ["wing flutter", "heat transfer in slabs", "boundary layer"] * 20,
        ["let de = el.os; for (const i of la) { x += y * de; }"] * 50,
        ["Größe Häuser Länge"] * 50,  # undecided
    ],
)
def test_short_undecided_and_code_is_english(texts: list[str]):
    assert detect(texts).language == "english"


def test_prose_about_code_is_prose():
    text = "get_user(name) returns the user of that name, or None if there is none; see load_user for the other keys."
    assert not detect([text] * 10).is_code
    assert detect(["for (int i = 0; i < n; i++) { total += values[i]; }"] * 10).is_code


def test_the_language_is_said_once_with_the_option(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    documents = {f"d{i}": "Der Zug fährt mit der Kohle in die Stadt und ist nicht das, was es ist" for i in range(4)}
    _announce.cache_clear()
    for query in ("Zug", "Stadt"):
        BM25Candidates().build(documents, {"test": {"q": query}}, tmp_path)
    BM25(language="german").retrieve(documents, {"q": "Zug"}, 1)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert lines == ["BM25: language german, words; data.candidates.language=... to change"]


def test_options_name_languages():
    assert {"auto", "none", "german", "chinese", "thai"} < set(LANGUAGES)
    for option, build in (("data.candidates", BM25Candidates), ("data.candidates", ListedCandidates), ("model", BM25)):
        with pytest.raises(
            ValueError, match=rf"^{option}.language=germn: did you mean german\? valid are auto, none, "
        ):
            build(language="germn")
    settings = load(["model=bm25", "model.language=german", "model.tokenizer=words"], "evaluate")
    assert (settings.model.language, settings.model.tokenizer) == ("german", "words")
    with pytest.raises(ValueError, match=r"data.candidates.tokenizer='chars' is not one of auto, words, bigrams, code"):
        load(["model=bm25", "data.candidates.tokenizer=chars"], "evaluate")


def _terms(text: str, language: str = "english", tokenizer: str = "auto") -> list[str]:
    return TextAnalyzer(language, tokenizer).queries([text])[0]


def test_terms():
    assert _terms("The Wings, flutter") == ["wing", "flutter"]
    assert _terms("Häuser und Straßen", "german") == ["haus", "strass"]
    assert _terms("किताबों में") == ["किताबों", "में"]  # vowel signs stay
    assert _terms("用C++写的learning程序") == ["用", "c++", "写的", "learn", "程序"]
    assert _terms("用C++写的程序", "chinese", "words") == _terms("用C++写的程序", "none", "words")
    assert _terms("猫") == ["猫"]  # a character alone
    assert "猫" in TextAnalyzer("chinese", "auto").documents(["我家的猫很可爱"])[0]
    assert _terms("ＡＢＣ ｶﾀ") == ["abc", "カタ"]  # full and half width
    assert _terms("e\u0301te\u0301", "none") == _terms("été", "none") == ["été"]
    assert _terms("İZMİR", "turkish") == ["izmir"]
    assert _terms("第7号", "chinese") == ["第", "7", "号"]
    assert _terms("👩\u200d💻 ❤️") == ["👩", "💻", "❤"]


def test_terms_of_code_differ_by_their_signs():
    for first, second in [("C++", "C#"), ("a < b", "a > b"), ("i <= n", "i < n"), ("F#", "F"), ("x == y", "x != y")]:
        assert set(_terms(first)) != set(_terms(second))
    for first, second in [("x->y", "x::y"), ("a + b", "a * b"), ("n = 2", "n += 2"), ("??", "&&")]:
        assert set(_terms(first, tokenizer="code")) != set(_terms(second, tokenizer="code"))
    assert _terms("a<b") == _terms("a  <  b")
    parts = {"get", "user", "name"}
    assert parts <= set(_terms("getUserName", tokenizer="code")) & set(_terms("get_user_name", tokenizer="code"))
    assert parts.isdisjoint(_terms("getusername", tokenizer="code") + _terms("getUserName get_user_name"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 Chinese documents; every second query has no character of the corpus. 12 train, 4 dev, 4 test queries."""
    documents = [{"_id": f"d{i}", "title": "", "text": f"第{i}种水果很好吃"} for i in range(30)]
    queries = [{"_id": f"q{i}", "text": f"xyz{i}" if i % 2 else f"{i}种水果"} for i in range(20)]
    (tmp_path / "zh" / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        (tmp_path / "zh" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, numbers in (("train", range(12)), ("dev", range(12, 16)), ("test", range(16, 20))):
        rows = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in numbers)]
        (tmp_path / "zh" / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "zh"


def _collection(folder: Path, **options: object) -> Collection:
    return BEIRConfig(path=str(folder), cache_dir=str(folder / "cache"), **options).build()


def test_evaluators_take_queries_without_candidates(folder: Path):
    collection = _collection(folder)
    sizes = {query: len(found) for query, found in collection.split("test").candidates.items()}
    assert sizes == {"q16": 30, "q17": 0, "q18": 30, "q19": 0}
    evaluator = RerankingConfig(depth=5).build(collection.split("test"), collection.documents, None)
    assert evaluator.oracle["recall@10"] == evaluator.candidate_recall == 0.5
    assert candidate_recall(evaluator.qrels, {query: {} for query in evaluator.qrels}) == 0.0


def test_a_run_and_an_evaluation_with_queries_without_candidates(
    folder: Path, tmp_path: Path, tiny_run: list[str], tiny_bert_dir: Path, capsys: pytest.CaptureFixture
):
    data = [f"data.path={folder}", f"data.cache_dir={tmp_path / 'cache'}"]
    more = ["trainer.max_steps=2", "trainer.eval_every=1", "run_name=ragged"]
    train(load(["+exp=reranker_grpo", *tiny_run, *data, *more]))
    files = tmp_path / "outputs" / "ragged"
    assert {line.split()[0] for line in (files / "runs" / "after.run").read_text().splitlines()} == {"q16", "q18"}
    assert (files / "report.html").is_file()
    for evaluation in ("retrieval", "reranking"):
        model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", f"eval={evaluation}", "eval.depth=200"]
        evaluate(load(["data=beir", *data, *model], "evaluate"))
        assert "4 queries" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"no candidates to rerank.*data.candidates.language and data.candidates.tok"):
        evaluate(load(["data=beir", *data, *model, "data.candidates.tokenizer=words"], "evaluate"))


def test_lists_without_a_negative_are_no_comparison(folder: Path):
    hard = ListOptions(random_fraction=0.0)
    words = BM25Candidates(tokenizer="words")  # whole sentences: no query has a word of the corpus
    assert "comparison" in _collection(folder, lists=hard).available
    assert "comparison" in _collection(folder, candidates=words).available  # random documents are negatives
    assert _collection(folder, candidates=words, lists=hard).available == {"positive"}
