"""The kubernetes target: as real pods, where a node can be had."""

CONTRACT = COMPONENTS = "tests/node/test_contract.py"
