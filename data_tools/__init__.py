"""Raw scans to verified stores: ingest, fingerprint, plan, prepare, verify, show, phantom."""
