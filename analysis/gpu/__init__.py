"""What only a GPU can show: parity of neuron backends, half precision, graphs, NCCL; and time."""
