"""mode=truth adds names to a folder, and forgets none."""

import json

from dreamfusion.mode import truth
from dreamfusion.pocket.data.catalog import Item


def item(name):
    return Item(name, (), "", f"{name}'s author", "CC-BY", "Library.sh3f", model=f"{name}.obj")


def test_names_of_before_keep_their_entries_and_their_authors(compose_config, tmp_path, monkeypatch):
    monkeypatch.setattr(truth, "read_libraries", lambda paths: [item("cat"), item("dog"), item("fox")])
    monkeypatch.setattr(truth, "_first_models", lambda items, names: {one.name: i for i, one in enumerate(items)})
    monkeypatch.setattr(truth, "map_processes", lambda make, tasks, *_: [(i, {"iou": 1.0}) for i in range(len(tasks))])

    def run(known, held_out):
        solid = compose_config("mode=truth").mode.solid
        settings = {"libraries": [], "names": "names.txt", "folder": str(tmp_path), "renders": None, "workers": 1}
        path = truth.run(compose_config(), known=known, held_out=held_out, solid=solid, **settings)
        credited = (tmp_path / "ATTRIBUTION.md").read_text()
        return json.loads(path.read_text()), [name for name in ("cat", "dog", "fox") if f"{name}'s author" in credited]

    first, credited = run(["cat"], ["dog"])
    assert {name: about["held_out"] for name, about in first.items()} == {"cat": False, "dog": True}
    assert credited == ["cat", "dog"]
    again, credited = run(["fox"], [])
    assert again == first | {"fox": again["fox"]} and credited == ["cat", "dog", "fox"]
    moved, credited = run([], ["cat"])
    assert moved == again | {"cat": again["cat"] | {"held_out": True}} and credited == ["cat", "dog", "fox"]
