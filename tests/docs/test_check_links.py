"""A link of the site that leads nowhere is found."""

import sys

import pytest

from docs import check_links


@pytest.fixture
def site(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">x</h1><a href="sub/page.html#there">x</a><a href="https://example.org/none">x</a>'
        '<a href="#top">x</a><img src="a%20b.png">'
    )
    (tmp_path / "a b.png").touch()
    (tmp_path / "sub" / "page.html").write_text('<p id="there"><a href="../index.html">x</a></p>')
    return tmp_path


def test_a_sound_site_has_no_broken_links(site, monkeypatch, capsys):
    assert check_links.broken(site) == []
    monkeypatch.setattr(sys, "argv", ["check_links", str(site)])
    assert check_links.main() == 0
    assert "every local link" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("none.html", "no file"),
        ("index.html#none", "no heading"),
        ("#none", "no heading"),
        ("../none.png", "no file"),
    ],
)
def test_a_link_that_leads_nowhere_is_told(site, link, why, monkeypatch, capsys):
    (site / "more.html").write_text(f'<a href="{link}">x</a>')
    assert check_links.broken(site) == [f"more.html: {link} leads to {why}"]
    monkeypatch.setattr(sys, "argv", ["check_links", str(site)])
    assert check_links.main() == 1
    assert link in capsys.readouterr().out


def test_a_folder_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check_links"])
    assert check_links.main() == 2
    assert "FOLDER" in capsys.readouterr().err
