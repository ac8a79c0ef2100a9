"""How long a test waits before it says that something hangs. No limit on speed: on a busy machine everything takes many times as long."""

HANGS_S = 1800
