from data.hashing import stable_hash


def test_the_hash_is_fixed_for_all_time():
    assert stable_hash("list", 42, 0, "q1") == 2827448163046314810


def test_parts_do_not_run_together_and_types_count():
    keys = [("a", "bc"), ("ab", "c"), (1, 23), (12, 3), ("1", "23"), ("1", 23)]
    hashes = {stable_hash(*key) for key in keys}
    assert len(hashes) == len(keys)
    assert all(0 <= value < 2**63 for value in hashes)
