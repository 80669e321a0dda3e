flashblock: case trado_8b_context_5000_paged: KV cache page: cannot allocate 2097152 bytes
