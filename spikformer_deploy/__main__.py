"""`python -m spikformer_deploy` is `spikdeploy`."""

from spikformer_deploy.cli.main import main

if __name__ == "__main__":
    main()
