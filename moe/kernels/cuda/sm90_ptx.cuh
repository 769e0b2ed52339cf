// Hopper's asynchronous machinery in one place: mbarriers, tensor copies, wgmma ordering, register budgets.
// Names follow the PTX ISA; every function is one instruction, or a spin around one.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_PTX_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_PTX_CUH_

#include <cuda.h>

#include <cstdint>

namespace conclave::sm90 {

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ float LoadShared(uint32_t address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address));
  return value;
}

__device__ __forceinline__ void StoreShared(uint32_t address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

__device__ __forceinline__ void BarrierInit(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals));
}

__device__ __forceinline__ void BarrierInitAt(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void BarrierArrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}

__device__ __forceinline__ void BarrierArriveHere(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void BarrierArriveExpect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void BarrierArriveExpectAt(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void BarrierWaitAt(uint32_t barrier, uint32_t phase) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\nbra WAIT;\nDONE:\n}\n" ::"r"(barrier),
      "r"(phase)
      : "memory");
}
__device__ __forceinline__ void BarrierWait(uint64_t* barrier, uint32_t phase) {
  BarrierWaitAt(SharedAddress(barrier), phase);
}

// A box of a two-dimensional tensor to shared memory; completes on `barrier`. `…At` takes addresses in shared memory.
__device__ __forceinline__ void CopyTensor2dAt(const CUtensorMap* map, uint32_t barrier, uint32_t to, int32_t x,
                                               int32_t y, uint64_t cache_hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "l"(cache_hint)
      : "memory");
}
__device__ __forceinline__ void CopyTensor2d(const CUtensorMap* map, uint64_t* barrier, void* to, int32_t x, int32_t y,
                                             uint64_t cache_hint) {
  CopyTensor2dAt(map, SharedAddress(barrier), SharedAddress(to), x, y, cache_hint);
}
// A box of a three-dimensional tensor.
__device__ __forceinline__ void CopyTensor3dAt(const CUtensorMap* map, uint32_t barrier, uint32_t to, int32_t x,
                                               int32_t y, int32_t z, uint64_t cache_hint) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "l"(cache_hint)
      : "memory");
}
__device__ __forceinline__ void CopyTensor3d(const CUtensorMap* map, uint64_t* barrier, void* to, int32_t x, int32_t y,
                                             int32_t z, uint64_t cache_hint) {
  CopyTensor3dAt(map, SharedAddress(barrier), SharedAddress(to), x, y, z, cache_hint);
}
// Asks L2 for `bytes` from `from` on. REQUIRES: both are multiples of 16.
__device__ __forceinline__ void PrefetchBulk(const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)), "r"(bytes)
               : "memory");
}
// Cache policies of createpolicy, as the copy engine takes them.
inline constexpr uint64_t kEvictFirst = 0x12F0000000000000ull;
inline constexpr uint64_t kEvictNormal = 0x1000000000000000ull;
inline constexpr uint64_t kEvictLast = 0x14F0000000000000ull;

__device__ __forceinline__ void PrefetchTensorMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void WgmmaFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void WgmmaCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `kPending` groups of this warpgroup are in flight.
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving accesses to an accumulator across the asynchronous instructions.
__device__ __forceinline__ void WgmmaTouch(float& value) { asm volatile("" : "+f"(value)::"memory"); }

// The descriptor of a K-contiguous operand whose rows are 128 bytes, 128-byte swizzle, eight rows an atom of 1024
// bytes. REQUIRES: `tile` is 1024-byte aligned. Adding 2 to the result steps 32 bytes along K.
__device__ __forceinline__ uint64_t OperandDescriptorAt(uint32_t tile) {
  return ((tile & 0x3FFFF) >> 4) | (uint64_t{1} << 16) | (uint64_t{1024 >> 4} << 32) | (uint64_t{1} << 62);
}
__device__ __forceinline__ uint64_t OperandDescriptor(const void* tile) {
  return OperandDescriptorAt(SharedAddress(tile));
}

// The descriptor of an operand [K, 64 n] whose K rows are panels of 64 two-byte elements in 128 bytes, 128-byte
// swizzle, the panels `panel_bytes` apart. REQUIRES: `tile` is 1024-byte aligned. Adding 128 to the result steps 16
// rows along K.
__device__ __forceinline__ uint64_t TransposedOperandDescriptor(const void* tile, uint32_t panel_bytes) {
  const uint64_t address = (SharedAddress(tile) & 0x3FFFF) >> 4;
  return address | (uint64_t{panel_bytes >> 4} << 16) | (uint64_t{1024 >> 4} << 32) | (uint64_t{1} << 62);
}

// Orders this thread's ordinary writes to shared memory before later reads by the tensor cores and the copy engine.
__device__ __forceinline__ void FenceSharedForAsync() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int kRegisters>
__device__ __forceinline__ void RegistersUp() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void RegistersDown() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// A barrier among `threads` threads of the block, by number (0 is __syncthreads).
__device__ __forceinline__ void NamedBarrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// Counts this warp in at a barrier without waiting there.
__device__ __forceinline__ void NamedBarrierArrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// Transposes an 8x8 matrix of 16-bit elements over a warp: lane l gives row l / 4, columns 2 (l % 4) and the next, and
// gets the same of the transpose.
__device__ __forceinline__ uint32_t Transpose8x8(uint32_t pair) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
  return transposed;
}

// Stores four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, and of each
// matrix row l / 4, columns 2 (l % 4) and the next.
__device__ __forceinline__ void StoreMatrices(void* row, const uint32_t* pairs) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(SharedAddress(row)),
               "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
               : "memory");
}

// Among four lanes: lane q gives v[0 … 3] and gets v[q] of lanes 0 … 3.
__device__ inline uint4 TransposeFourLanes(const uint32_t (&v)[4]) {
  const int q = threadIdx.x % 4;
  // Two rounds of swaps, one per bit of the lane.
  const uint32_t a0 = __shfl_xor_sync(~0u, q & 1 ? v[0] : v[1], 1), a1 = __shfl_xor_sync(~0u, q & 1 ? v[2] : v[3], 1);
  const uint32_t even[2] = {q & 1 ? a0 : v[0], q & 1 ? v[1] : a0};  // of index (q & 1), from lanes q & ~1 and the next
  const uint32_t odd[2] = {q & 1 ? a1 : v[2], q & 1 ? v[3] : a1};   // of index 2 + (q & 1)
  const uint32_t b0 = __shfl_xor_sync(~0u, q & 2 ? even[0] : odd[0], 2),
                 b1 = __shfl_xor_sync(~0u, q & 2 ? even[1] : odd[1], 2);
  return q & 2 ? make_uint4(b0, b1, odd[0], odd[1]) : make_uint4(even[0], even[1], b0, b1);
}

}  // namespace conclave::sm90

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_PTX_CUH_
