// Multi-head latent attention in absorbed form over a paged latent cache (DeepSeek-V2, section 2.1): the host's view,
// free of CUDA headers. Decode, prefill, replay and the verification of drafts are one kernel: a row is one query token
// with the positions that it sees, whatever it stands beside, so its bits depend on nothing but its own sequence.
//
// The cache is walked in blocks of 64 tokens from position zero. Blocks of one split of kMlaSplitTokens are merged in
// ascending order by online softmax in registers; splits begin anew and are merged in ascending order by the same
// formula, O = O · 2^(m_old - m_new) + O_next · 2^(m_next - m_new) in float32, wherever they were computed.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_MLA_DECODE_H_
#define CONCLAVE_MOE_KERNELS_CUDA_MLA_DECODE_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace conclave::cuda {

// Splits begin at multiples of this position, whatever the lengths and the number of rows.
inline constexpr int kMlaSplitTokens = 2048;

// The dtype of query, cache and output together. Products are of this dtype, sums and softmax are float32.
enum class MlaDtype : uint8_t { kF32 = 1, kBf16 = 2 };

// What one launch computes. All pointers are device pointers; matrices are contiguous.
struct MlaDecode {
  MlaDtype dtype = MlaDtype::kBf16;
  bool packed = false;                   // the cache has rows as in moe/tensor/latent_row.h; on tensor cores alone
  // [rows, heads, latent + rope]: absorbed query, then its rotated part; 16-byte aligned.
  const void* query = nullptr;
  const void* cache = nullptr;           // [pages, page_tokens, latent + rope] of one layer; 16-byte aligned
  const int32_t* page_tables = nullptr;  // [tables, table_stride]: pages of a sequence in order
  const int32_t* table_of_row = nullptr; // [rows]: which table; null: row i has table i
  const int32_t* lengths = nullptr;      // [rows]: positions [0, length) are attended to; 0: the output is zeros
  int rows = 0;
  int heads = 0;
  int latent = 0;                        // at most 1024
  int rope = 0;                          // at most 1024
  int pages = 0;                         // of the whole cache
  int page_tokens = 0;
  int table_stride = 0;                  // with table_of_row may be 1: tables then begin anywhere in one array of pages
  int tokens_max = 0;                    // no length is larger; sizes the grid, so that a CUDA graph fits all its steps
  float scale = 0;                       // softmax scale, YaRN's mscale² in it; positive
  void* out = nullptr;                   // [rows, heads, latent]: softmax-weighted sums of the latents
  void* workspace = nullptr;             // MlaWorkspaceBytes(...), 16-byte aligned; not needed where that is 0
};

// Bytes of workspace for partial results: 0 up to kMlaSplitTokens.
size_t MlaWorkspaceBytes(int rows, int heads, int latent, int tokens_max);

// Whether LaunchMlaDecode uses tensor cores for this problem, on a Hopper device.
bool MlaTakesTensorCores(const MlaDecode& problem);

// `stream` is a cudaStream_t. Cached tokens at or past a row's length are never read into its result, be they NaN.
// bfloat16 with latent 512, rope 64 and pages of 8 to 64 tokens (a power of two; 64 is the fastest) runs on Hopper's
// tensor cores; all else runs plain loops, which are slow. Which of the two, depends on the fields above other than
// rows, lengths and tables. A packed cache gives the bits of the same values in bfloat16. INVALID_ARGUMENT names the
// field; INTERNAL carries CUDA's error.
absl::Status LaunchMlaDecode(const MlaDecode& problem, void* stream);

// The plain loops, whatever the device and shape.
absl::Status LaunchPlainMlaDecode(const MlaDecode& problem, void* stream);

}  // namespace conclave::cuda

#endif  // CONCLAVE_MOE_KERNELS_CUDA_MLA_DECODE_H_
