"""The WhatsApp sender against everything that the simulator can do to it: `python -m proofs.whatsapp`."""
