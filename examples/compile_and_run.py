"""From a trained model to a report, in Python: python examples/compile_and_run.py [report.html]"""

import sys

import spikformer_deploy as sd

program = sd.compile("digits-v2", target="loihi2")
print(f"{program.mapping.cores_used} cores, ranges {program.network.bounds}, exact {program.network.exact}")

run = sd.run(program, "digits", limit=100)
print(f"accuracy {run.accuracy:.1%}")
for runtime, timing in run.under.items():
    low, high = timing.spread.likely_step(timing.finest.latency_us[1])
    print(f"latency under the runtime {runtime}: likely {low:.0f} to {high:.0f} us (estimate)")
for energy in run.energies:
    for boundary in energy.boundaries:
        low, high = energy.within(boundary).likely
        print(f"{energy.convention:<28} {boundary:<22} likely {low:.4g} to {high:.4g} mJ an image")

run.report(sys.argv[1] if len(sys.argv) > 1 else "report.html")
