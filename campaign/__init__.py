"""Proofs by force: crashes, failing disks, power cuts and planted bugs against the real process. Not shipped."""
