"""The certificate of the gradients: what was verified of each op, in figures that others can derive again.

scripts/certify FILE [OP ...]               verifies the ops and writes a certificate
python scripts/check_certificate.py FILE    derives its figures anew, by code of its own
"""
