"""systemd's user manager over D-Bus: the only user of D-Bus."""
