"""Texts to vectors: one backbone, one pass, the same bits whatever stands beside an example.

    EncoderSettings (settings)      what a user chooses, checked
      -> describe_encoder           which files, which tokens, which numbers: an EncoderIdentity with its fingerprint,
         (identity)                 known without loading the model, so an unchanged encoder costs nothing
      -> load_encoder (encoder)     the backbone, without its language-model head
      -> Encoder.encode_stream
           texts -> token lists     in slabs, one slab ahead of the model
           -> BucketBatcher         batches of fixed shapes, one per length bucket (batching)
           -> last hidden states -> one vector an example, fp32, norm 1 (pooling)
           -> EncodedBatch          with the caller's row numbers, in the order in which batches fill
      beside it: Progress           rows, rates, time left (progress)
    Whitening                       what scores are taken of, where ``whiten`` is set (whitening; its frozen file: whitening_file)

The room takes rendered texts and gives arrays: it knows no conversations, no store and no Dagster. torch and transformers are imported
inside functions, so that importing the room is quick.
"""
