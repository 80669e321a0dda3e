"""times.py: how long a refresh and a reuse take on this GPU, at the shapes of TraDo-8B (32 query heads, 8 KV heads of
128, a block of 4 tokens, bf16)."""
import statistics

import torch


def recorded(call):
    """The call as a CUDA graph: what is timed is the GPU's work, not Python's."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles kernels, fills the allocator
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def milliseconds(call, rounds=30, calls=10):
    """The median of `rounds` means of `calls` calls."""
    graph, times = recorded(call), []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / calls)
    return statistics.median(times)


def ports():
    import flashblock_torch

    yield "PyTorch, flash", flashblock_torch.Port("flash", internal="flash")
    yield "PyTorch, cuDNN", flashblock_torch.Port("cudnn", internal="cudnn")
    import flashblock_triton

    yield "Triton", flashblock_triton.Port()


def main():
    if not torch.cuda.is_available():
        print("no GPU: nothing to time")
        return
    print(f"{torch.cuda.get_device_name()}: milliseconds of one layer's attention")
    print(f"{'port':16} {'context':>8} {'refresh':>9} {'reuse':>9} {'external':>9}")
    for name, port in ports():
        for context in (4096, 16384, 65536, 262144):
            q, own_k, own_v = (torch.randn(1, h, 4, 128, device="cuda").bfloat16() for h in (32, 8, 8))
            k, v = (torch.randn(1, 8, context, 128, device="cuda").bfloat16() for _ in range(2))
            scale = 128**-0.5
            kept = port.external(q, k, v, scale)

            def reuse(port=port, q=q, k=own_k, v=own_v, scale=scale, kept=kept):
                return port.merge(*kept, *port.internal(q, k, v, scale))

            def external(port=port, q=q, k=k, v=v, scale=scale):
                return port.external(q, k, v, scale)

            def refresh(port=port, q=q, k=own_k, v=own_v, scale=scale, external=external):
                return port.merge(*external(), *port.internal(q, k, v, scale))

            times = [f"{milliseconds(call):9.4f}" for call in (refresh, reuse, external)]
            print(f"{name:16} {context:8} {' '.join(times)}")


main()
