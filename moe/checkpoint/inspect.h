// What a checkpoint consists of, and how its experts would spread over shards: the substance of `conclave inspect`.
#ifndef CONCLAVE_MOE_CHECKPOINT_INSPECT_H_
#define CONCLAVE_MOE_CHECKPOINT_INSPECT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/model_spec.h"

namespace conclave {

// How many weights a model has, by their use.
struct ParameterCounts {
  int64_t total = 0;    // of the decoder with embedding and head, without MTP layers
  int64_t active = 0;   // that take part in one token: top_k experts a layer; without the embedding, which is a look-up
  int64_t experts = 0;  // in routed experts, part of total
  int64_t head = 0;     // that make logits of a hidden state, part of active: lm_head, or the embedding that it shares
  int64_t mtp = 0;      // in MTP layers, beside total; without copies of embedding and head
};

// Counts by the shape alone. Block scales are not parameters.
ParameterCounts CountParameters(const ModelSpec& spec);

// Additions and multiplications that reading a prompt takes: two for each active weight of every token, but the head's
// for the last token alone, of which logits are needed. Without attention's over earlier tokens.
// REQUIRES: prompt_tokens >= 1
double PrefillOperations(const ParameterCounts& counts, int prompt_tokens);

// What one expert shard would hold.
struct ShardReport {
  int experts_per_layer = 0;  // routed experts, of every MoE layer
  int64_t expert_bytes = 0;   // stored bytes of those, scales included
};

// Everything that `inspect` prints. Bytes are as stored.
struct ModelReport {
  std::string directory;
  std::string fingerprint;
  ModelSpec spec;
  ParameterCounts parameters;
  std::map<std::string, int64_t> bytes_by_dtype;  // by the safetensors spelling; everything stored
  int64_t bytes_total = 0;
  int64_t expert_bytes = 0;     // of routed experts of the decoder, scales included
  int64_t attention_bytes = 0;  // what an attention service uses: all the rest but MTP layers
  int64_t mtp_bytes = 0;
  int64_t active_bytes = 0;  // read for one token: attention_bytes less the embedding, and top_k experts a layer
  int64_t cache_bytes_per_token = 0;  // KV cache of all layers, at 2 bytes a value
  std::vector<ShardReport> shards;    // experts dealt evenly in ascending order, one copy of each
};

// Reads headers only. REQUIRES: shards >= 1.
ModelReport Inspect(const Checkpoint& checkpoint, int shards);

// The published name of a family, such as "DeepSeek-V3".
std::string FamilyName(ModelFamily family);

// For people, a few lines; and one JSON object on one line.
std::string ToText(const ModelReport& report);
std::string ToJson(const ModelReport& report);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_INSPECT_H_
