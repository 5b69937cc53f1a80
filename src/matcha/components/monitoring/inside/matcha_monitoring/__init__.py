"""Matcha's monitoring service: keeps captured traffic and compares it with the training data.

Runs in the monitoring environment and imports nothing of Matcha. The service itself stays small: pandas,
pyarrow and Evidently are imported only by `matcha_monitoring.work`, in processes that end.
"""
