// One request for text and its result, whoever runs it: an engine in this process, or a gateway.
#ifndef CONCLAVE_CLI_GENERATION_H_
#define CONCLAVE_CLI_GENERATION_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/cluster_access.h"
#include "cli/expert_report.h"
#include "cli/local_cluster.h"
#include "moe/placement/placement.h"

namespace conclave {

// What is asked for.
struct GenerationRequest {
  std::string prompt;
  bool chat = false;  // the prompt is a user's message, rendered with the model's chat template
  int max_tokens = 128;
  double temperature = 0;
  double top_p = 1;
  int top_k = 0;
  std::optional<uint64_t> seed;  // empty: drawn by whoever runs it
  bool hash_logits = false;
  bool ignore_eos = false;
  std::string json_schema;  // that the text is an instance of; empty: any text
};

// What came of it.
struct GenerationResult {
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> ids;   // without the prompt; an end-of-sequence id included
  std::string text;           // of the ids, special tokens left out
  std::string finish_reason;  // "stop" or "length"
  std::string logits_hash;    // 16 hexadecimal digits where asked
  ExpertUse expert_use;
};

// Called with each new piece of text, whole characters only.
using TextSink = std::function<void(absl::string_view)>;

// Runs the request on an engine of this process. `beside` other requests with other prompts run at the same time,
// to show that they do not matter.
absl::StatusOr<GenerationResult> GenerateLocally(LocalCluster& cluster, const GenerationRequest& request, int beside,
                                                 const TextSink& sink);

// Runs the request at the gateway on `address` (host:port). UNAVAILABLE: nobody answers there.
absl::StatusOr<GenerationResult> GenerateAtGateway(const std::string& address, const ClusterAccess& access,
                                                   const GenerationRequest& request, const TextSink& sink);

// Who holds which experts, as the attention service on `address` knows it.
absl::StatusOr<std::vector<ShardHoldings>> HoldingsFromRouter(const std::string& address, const ClusterAccess& access);

}  // namespace conclave

#endif  // CONCLAVE_CLI_GENERATION_H_
