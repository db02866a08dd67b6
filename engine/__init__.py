"""The player: devices, time, threads, window and video around any `WorldGenerator`. Never torch.

On its way to the display a frame passes: `input`, `gamepad` and `bindings`, which collect what the
player does; `controls`, which turns it into cameras; `loop`, on a thread of its own, which asks the
world for the frames of these cameras when `pacing` says so, with as much work as `effort` allows, and
remembers them (`history`, `time_travel`); `screen`, which shows them (`viewer`, `timewarp`, `window`)
under what `hud`, `title` and `help_sheet` paint. `game` is where all of it meets.

On disk: `saves`; `recording`, `replay` and `export`, by the lines of `events`. `headless` does without
a window, and `scripted` plays and measures by itself. `cli` checks a command line before anything slow
is imported.
"""
