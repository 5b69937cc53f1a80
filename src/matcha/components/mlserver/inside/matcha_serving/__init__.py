"""MLServer as Matcha runs it: guarded, captured, and told by one list what to serve.

__main__    settings from arguments and environment, then the server until SIGTERM
server      MLServer put together from its own parts and those below
gate        what may reach the HTTP server at all: Host, Origin, size
answers     every refusal and failure over HTTP is JSON with an `error`
rpc         the same over gRPC
admin       PUT /matcha/deployments: serve exactly this list
following   the same list as a file, for replicas that nobody told
leaving     kept connections, and the end, without failing a request
applications  the server for applications outside, which asks for a token
tokens      which tokens there are, whether one is right, how often it may ask
deployments the list, and making it so without failing a request
copies      local copies of models, so that a restart needs no tracking server
runtime     one served model: guard -> (batcher) -> model -> capture
forward     one model served by another process
columns     guard of column signatures: V2 inputs -> DataFrame
tensors     guard of tensor signatures: V2 inputs -> array or arrays
outputs     what a model returned -> V2 outputs
capture     served requests on their way to the monitoring service
"""
