"""Search: settings found by optimisation, on speakers that the search never tests."""
