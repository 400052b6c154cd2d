"""Contract suites, fakes, and the private systemd host of the tests."""
