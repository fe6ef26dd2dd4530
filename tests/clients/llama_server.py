"""llama.cpp's own HTTP server, as a wheel ships it: `llama_server.py MODEL.gguf PORT`."""

import signal
import sys

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.model_alias = {"tiny"}
parameters.hostnames = ["127.0.0.1"]
parameters.port = int(sys.argv[2])
parameters.n_parallel = 2
# Of both slots together.
parameters.n_ctx = 1 << 15
parameters.cpuparams.n_threads = 1
parameters.cpuparams_batch.n_threads = 1
# A prompt that is remembered is counted otherwise the second time.
parameters.cache_prompt = False
parameters.fit_params = False
parameters.warmup = False
parameters.offline = True
parameters.ui = False
# Serves from threads of its own until it is deleted.
server = xllamacpp.Server(parameters)
signal.pause()
