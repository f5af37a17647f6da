"""Texts to vectors: one backbone, one pass, the same bits whatever stands beside an example.

    EncoderSettings (settings)      what a user chooses, checked
      -> describe_encoder           which files, which tokens, which numbers: an EncoderIdentity with its fingerprint,
         (identity)                 known without loading the model, so an unchanged encoder costs nothing
      -> load_encoder (encoder)     on the devices that the settings mean (devices)
      -> Encoder.encode_stream
           texts -> token lists     in slabs, one slab ahead of the model
           -> Batcher               batches by length (batching), or packed without padding for a GPU (packing), as the device's rules say
           -> Runner                one batch a core, or one ahead of the last on a GPU (running); several devices: a process each (workers)
           -> Backbone              last hidden states, without a language-model head -> one vector an example, fp32, norm 1 (backbone, pooling);
                                    over packed batches, compiled (packed)
           -> EncodedBatch          with the caller's row numbers, in the order in which batches fill
      beside it: Progress           rows, rates, time left (progress)
    Whitening                       what scores are taken of, where ``whiten`` is set (whitening; its frozen file: whitening_file)

The room takes rendered texts and gives arrays: it knows no conversations, no store and no Dagster. torch and transformers are imported
inside functions, so that importing the room is quick.
"""
