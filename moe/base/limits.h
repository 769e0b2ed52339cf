// A limit on everything that comes from outside: beyond these a file or a message is refused by name.
#ifndef CONCLAVE_MOE_BASE_LIMITS_H_
#define CONCLAVE_MOE_BASE_LIMITS_H_

#include <cstdint>

namespace conclave::limits {

// The published safetensors limit on the JSON header.
inline constexpr int64_t kSafetensorsHeaderBytesMax = 100'000'000;
inline constexpr int64_t kConfigFileBytesMax = 16 << 20;
inline constexpr int64_t kTokenizerFileBytesMax = 256 << 20;
inline constexpr int kJsonDepthMax = 64;
inline constexpr int kTensorRankMax = 8;

// Model shapes. DeepSeek-V3 has 61 layers, 256 experts, hidden 7168, vocab 129280; Kimi-K2 384 experts.
inline constexpr int kLayersMax = 1024;
inline constexpr int kExpertsPerLayerMax = 8192;
inline constexpr int kTopKMax = 64;
inline constexpr int kHeadsMax = 1024;
inline constexpr int kHiddenMax = 1 << 17;
inline constexpr int kIntermediateMax = 1 << 20;
inline constexpr int kVocabMax = 1 << 22;
inline constexpr int kContextMax = 1 << 24;

// One call to an expert shard.
inline constexpr int kCallRowsMax = 16384;
inline constexpr int64_t kCallBytesMax = int64_t{512} << 20;
inline constexpr int kShardsMax = 4096;

// What one process computes with.
inline constexpr int kThreadsMax = 1024;

// One request.
inline constexpr int64_t kPromptBytesMax = 16 << 20;

}  // namespace conclave::limits

#endif  // CONCLAVE_MOE_BASE_LIMITS_H_
