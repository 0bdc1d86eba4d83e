"""From a trained model to a report, in Python: python examples/compile_and_run.py [report.html]"""

import sys

import spikformer_deploy as sd

program = sd.compile("digits-v2", target="loihi2")
print(f"{program.mapping.cores_used} cores, ranges {program.network.bounds}, exact {program.network.exact}")

run = sd.run(program, "digits", limit=100)
low, nominal, high = run.times.latency_us
print(f"accuracy {run.accuracy:.1%}, latency {nominal:.0f} us ({low:.0f} to {high:.0f}, estimate)")
for energy in run.energies:
    print(f"{energy.convention:<28} {energy.total.nominal:.4g} mJ an image")

run.report(sys.argv[1] if len(sys.argv) > 1 else "report.html")
