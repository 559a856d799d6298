"""The readers of each kind of file: titles, headings, paragraphs, and what is no text."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.documents import needed as needed_module
from data.documents.decode import decoded
from data.documents.document import Document, Section
from data.documents.needed import MissingLibrary
from data.documents.readers import DocumentReader
from data.formats.skipped import SkippedRows


def read(path: Path) -> list[Document]:
    return list(DocumentReader((), SkippedRows("stop")).read(path))


def written(folder: Path, name: str, text: str) -> Document:
    """The only document of a file with that text."""
    (folder / name).write_text(text, encoding="utf-8")
    [document] = read(folder / name)
    return document


def parts(document: Document) -> list[tuple[str, list[str]]]:
    return [(section.heading, section.paragraphs) for section in document.sections]


def test_a_text_has_a_title_if_its_first_paragraph_is_one_line(tmp_path):
    document = written(tmp_path, "a.txt", "A title\r\n\r\nOne\r\nparagraph.\r\n \r\nTwo.\r\n")
    assert (document.title, parts(document)) == ("A title", [("", ["One paragraph.", "Two."])])
    document = written(tmp_path, "b.txt", "Two lines\nof text.\n\nMore.")
    assert (document.title, parts(document)) == ("", [("", ["Two lines of text.", "More."])])
    assert written(tmp_path, "README", "alone").title == ""


def test_underlined_headings_of_a_text(tmp_path):
    text = "=====\nTitle\n=====\n\nLead.\n\nFirst part\n----------\nText.\n\n.. note:: left out\n\nMore.\n"
    document = written(tmp_path, "a.rst", text)
    assert (document.title, parts(document)) == ("Title", [("", ["Lead."]), ("First part", ["Text.", "More."])])


def test_markdown(tmp_path):
    text = (
        "---\nauthor: x\n---\n# The *title*\n\nSee [a link](http://x.y) and `code`.<br>\n\n"
        "## Part\n\n- one\n  - inner\n- two\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx = 1\n\n# no heading\n```\n\n<p>html</p>\n\n### Empty\n"
    )
    document = written(tmp_path, "a.md", text)
    assert document.title == "The title"
    lists = ["one", "inner", "two", "a b", "1 2", "x = 1\n\n# no heading", "html"]
    assert parts(document) == [("", ["See a link and code."]), ("Part", lists)]
    assert written(tmp_path, "b.md", '---\ntitle: "Named"\n---\n# Own\n\ntext').title == "Named"


def test_html(tmp_path):
    text = """<html><head><title>Site: page</title><style>p {}</style></head><body><nav>menu</nav>
    <header><h1>The <b>page</b></h1></header><p>One <i>two</i>,<!-- no --> three.</p><div>loose<p>inner</p>end</div>
    <h2>Part</h2><ul><li>a</li><li>b</li></ul><table><tr><td>1</td><td>2</td></tr></table>
    <pre>x = 1
y = 2</pre><script>no</script><footer>foot</footer></body></html>"""
    document = written(tmp_path, "a.html", text)
    assert document.title == "The page"
    texts = ["One two, three.", "loose", "inner", "end"]
    assert parts(document) == [("", texts), ("Part", ["a", "b", "1 2", "x = 1\ny = 2"])]
    assert written(tmp_path, "b.htm", "<title>Named</title><p>text").title == "Named"
    (tmp_path / "c.html").write_bytes('<meta charset="iso-8859-1"><p>caf\xe9'.encode("latin1"))
    assert parts(read(tmp_path / "c.html")[0]) == [("", ["caf\xe9"])]


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF with a line of text for each line of a page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for page in pages:
        shown = " T* ".join(f"({line}) Tj" for line in page.split("\n"))
        stream = f"BT /F1 12 Tf 14 TL 50 700 Td {shown} ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        own = f"/Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects)} 0 R"
        objects.append(f"<< {own} /Resources << /Font << /F1 3 0 R >> >> >>")
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    objects.append(f"<< /Title ({title}) >>")
    content, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>"
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n"
    end = f"{head}{table}trailer\n{trailer}\nstartxref\n{len(content)}\n%%EOF\n"
    return (content + end).encode("latin1")


def test_pdf(tmp_path):
    file = tmp_path / "a.pdf"
    pages = [
        f"Journal of tests {number}\nWords of page {'abc'[number]} are bro-\nken here {'abc'[number]}."
        for number in range(3)
    ]
    file.write_bytes(pdf(*pages, title="A title of its own"))
    [document] = read(file)
    assert document.title == "A title of its own"
    assert parts(document) == [("", [f"Words of page {letter} are broken here {letter}." for letter in "abc"])]
    file.write_bytes(pdf("The first line is it\nText of the page.", title="Microsoft Word - draft.doc"))
    [document] = read(file)
    assert (document.title, parts(document)) == ("The first line is it", [("", ["Text of the page."])])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.4\n", r"broken PDF \("),
        (pdf("x")[:200], r"broken PDF \("),
        (pdf(""), "PDF without text: a scan needs OCR"),
    ],
)
def test_a_pdf_that_gives_nothing(content, reason, tmp_path):
    (tmp_path / "a.pdf").write_bytes(content)
    with pytest.raises(ValueError, match=f"^{reason}"):
        read(tmp_path / "a.pdf")


def test_python(tmp_path):
    text = (
        '"""What it is. More of it."""\n\nimport os\n\n\nclass Box:\n    """A box. It holds."""\n\n    size = 1\n\n'
        '    def open_it(self, wide):\n        """Open the\n        box."""\n        return wide\n\n\n'
        "def bare(): pass\n"
    )
    document = written(tmp_path, "a.py", text)
    assert document.title == ""
    assert [section.summary for section in document.sections] == ["What it is.", "A box.", "Open the box.", ""]
    assert parts(document) == [
        ("", ["What it is.", "More of it."]),
        ("Box", ["A box.", "It holds.", "class Box:\n    size = 1"]),
        ("Box.open_it", ["Open the box.", "    def open_it(self, wide):\n        return wide"]),
        ("bare", ["def bare(): pass"]),
    ]
    assert parts(written(tmp_path, "b.py", "{% template %}\n\nx = 1\n")) == [("", ["{% template %}"]), ("", ["x = 1"])]


def test_other_code(tmp_path):
    text = (
        "#include <x.h>\n\n/* Adds two numbers.\n * They may be negative.\n */\n"
        "int add(int a, int b) {\n\n    return a + b;\n}\n\n"
        "// Alone.\n\nint one;\n"
    )
    document = written(tmp_path, "a.c", text)
    code = "int add(int a, int b) {\n\n    return a + b;\n}"
    assert [section.summary for section in document.sections] == ["", "Adds two numbers.", "Alone."]
    assert parts(document) == [
        ("", ["#include <x.h>"]),
        ("", ["Adds two numbers.", "They may be negative.", code]),
        ("", ["Alone.", "int one;"]),
    ]


def test_tables(tmp_path):
    (tmp_path / "a.csv").write_text("Title,Body\nOne,Text of one\n,Text of two\n")
    assert [(each.title, each.sections, each.row) for each in read(tmp_path / "a.csv")] == [
        ("One", [Section("", ["Text of one"])], "1"),
        ("", [Section("", ["Text of two"])], "2"),
    ]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "gb18030", "shift_jis", "koi8-r"]
)
def test_encodings(encoding):
    text = {
        "cp1252": "Der Schl\xfcssel \xf6ffnet die T\xfcr \u2013 \u201ewirklich\u201c, sagt die gro\xdfe Stra\xdfe. "
        * 5,
        "gb18030": "\u5317\u4eac\u662f\u4e2d\u534e\u4eba\u6c11\u5171\u548c\u56fd\u7684\u9996\u90fd\u3002" * 10,
        "shift_jis": "\u3053\u308c\u306f\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059\u3002" * 10,
        "koi8-r": "\u042d\u0442\u043e \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0442\u0435\u043a\u0441\u0442, "
        "\u043a\u043e\u0442\u043e\u0440\u044b\u0439 "
        "\u043d\u0430\u0434\u043e \u043f\u0440\u043e\u0447\u0438\u0442\u0430\u0442\u044c. " * 5,
    }.get(encoding, "na\xefve \u5317\u4eac \U0001f600")
    assert decoded(text.encode(encoding)).text == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("latin-1", "Les fêtes de l'été commencent déjà en juin, avec la musique près de la rivière."),
        ("latin-1", "A educação não é só informação; também é formação do coração e das emoções."),
        ("latin-1", "Älgen går över vägen på kvällen. Barnen åker skidor i skogen när snön är djup."),
        ("cp1252", "Le c\u0153ur de l\u2019\u00e9t\u00e9\n\n\u0152uvre d\u2019art \u00e0 vendre, prix 30 \u20ac."),
        ("cp1252", "The caf\u00e9\u2019s dish is 20 \u20ac \u2014 try it with a glass of wine near the river."),
        (
            "cp1250",
            "Tegnap elmentünk Győrbe, hogy meglátogassuk a barátainkat, és ez nagyon jó volt, de nem volt sok időnk, "
            "mert az egész város szép.",
        ),
        (
            "cp1250",
            "Wczoraj pojechaliśmy do Łodzi, żeby odwiedzić naszych przyjaciół, ale nie było to tak łatwe, jak się nam "
            "wydawało, bo jest na to za późno.",
        ),
        ("iso8859-2", "Zażółć gęślą jaźń."),
        ("cp1257", "Vilniuje šiandien šilta, žmonės vaikšto po miestą ir džiaugiasi saule."),
        ("cp1250", "Bună ziua. Astăzi este o zi frumoasă şi mergem în oraş."),
        ("latin-1", "Rooms of 30 m\u00b3 cost \u00a35 a night."),
        ("cp1254", "T\u00fcrkiye'de g\u00fcne\u015fli g\u00fcnler ba\u015flad\u0131, \u00e7ocuklar oynuyor. " * 2),
    ],
)
def test_encodings_of_latin_letters(encoding, text):
    """Of which charset-normalizer alone reads the French as cp1257 (fźtes)."""
    assert decoded(text.encode(encoding)).text == text


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("head", ["", '<meta charset="{}">', '<meta charset="x-unknown">', '<meta charset="utf-16">'])
def test_encodings_of_html(encoding, head, tmp_path):
    """A page that names none was read as cp1257 if it is Latin-1."""
    text = "Les f\u00eates de l'\u00e9t\u00e9 commencent d\u00e9j\u00e0 pr\u00e8s de la rivi\u00e8re."
    page = f"<html><head>{head.format(encoding)}</head><body><p>{text}</p></body></html>"
    (tmp_path / "page.html").write_bytes(page.encode(encoding))
    assert [document.sections for document in read(tmp_path / "page.html")] == [[Section("", [text])]]


@pytest.mark.parametrize("head", [b"", b'<meta charset="utf-8">'])
def test_a_binary_file_is_no_page(head, tmp_path):
    (tmp_path / "page.html").write_bytes(head + bytes(range(256)) * 20)
    with pytest.raises(ValueError, match="binary: no text"):
        list(read(tmp_path / "page.html"))


@pytest.mark.parametrize("content", [b"a\0b", bytes(range(1, 32)) * 20, b"\xff\xfea"])
def test_what_is_no_text(content):
    with pytest.raises(ValueError, match=r"^(binary: no text|not UTF-16, which its byte order mark says)"):
        decoded(content)


def test_a_missing_library_is_named_once_and_skips_no_file(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(needed_module, "import_module", missing)
    (tmp_path / "a.pdf").write_bytes(pdf("x"))
    with pytest.raises(MissingLibrary, match=r"^data=documents: pypdf is not installed: pip install .*\[documents\]'$"):
        list(DocumentReader((), SkippedRows("skip")).read(tmp_path / "a.pdf"))
