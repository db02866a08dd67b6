"""The player: devices, time, threads, window and video around any `WorldGenerator`. Never torch."""
