// How the process's allocator deals with the memory of gRPC messages.
#ifndef CONCLAVE_MOE_TRANSPORT_GRPC_MESSAGE_MEMORY_H_
#define CONCLAVE_MOE_TRANSPORT_GRPC_MESSAGE_MEMORY_H_

namespace conclave {

// From now on freed memory of messages, up to 32 MiB each and 64 MiB in all of an arena, stays with the process. gRPC
// allocates and frees a message's memory for every message; glibc by itself maps each that is larger than 128 KiB
// anew, whose pages the kernel has to clear. Thread-safe; only the first call does anything.
void KeepMessageMemory();

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_GRPC_MESSAGE_MEMORY_H_
