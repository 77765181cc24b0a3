"""PASS, FAIL or INCONCLUSIVE: from an audit and a policy."""
