// NCCL and a device for tests: pairs of ranks in this process, whose moves are copies that happen when both ends are
// there and their streams are looked at. It does nothing at once, as NCCL with blocking = 0 does.
#ifndef CONCLAVE_MOE_TRANSPORT_NCCL_FAKE_NCCL_H_
#define CONCLAVE_MOE_TRANSPORT_NCCL_FAKE_NCCL_H_

#include "moe/transport/nccl/nccl_api.h"
#include "moe/transport/nccl/nccl_transport.h"

namespace conclave::fake_nccl {

// A table that leads here; its version is `version`.
NcclApi Api(int version = 23007);
// Streams of host memory that take the fake's moves.
StreamFactory Streams();

// From now on, in the whole process; Reset ends it.
void NobodyJoins();   // communicators stay in progress
void JoiningFails();  // at the next look at their state
void MovesStall();    // they never end
void MovesFail();     // NCCL tells of it asynchronously
void MovesDamage();   // one byte of what arrives is another
void CopiesTake(int polls);  // of their stream, before they are done
void Reset();
// How many communicators have been made and not been aborted.
int communicators();
// Device memory that streams have given out, whether it was freed since or not.
int64_t device_bytes();
// Whether `memory` is device memory whose stream has come to the place where it was asked for.
bool Given(const void* memory);

}  // namespace conclave::fake_nccl

#endif  // CONCLAVE_MOE_TRANSPORT_NCCL_FAKE_NCCL_H_
