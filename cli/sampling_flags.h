// How an answer is sampled, as flags of a verb and as settings that change while it runs (`/set temperature 0.7`).
#ifndef CONCLAVE_CLI_SAMPLING_FLAGS_H_
#define CONCLAVE_CLI_SAMPLING_FLAGS_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cli/command.h"
#include "conclave/v1/inference.pb.h"

namespace conclave {

// Whatever is not given is left to the model's own defaults (inference.proto, SamplingOptions).
class SamplingFlags {
 public:
  // --temperature, --top-p, --top-k, --min-p, --repetition-penalty, --presence-penalty, --frequency-penalty, --seed and
  // --max-tokens.
  void Declare(CommandFlags& flags);
  // Takes the flags in, once they are parsed. UsageError names the flag and what it takes.
  absl::Status Take();

  // Changes one setting, named like its flag; an empty or "default" `text` leaves it to the model again.
  // INVALID_ARGUMENT names the setting and what it takes.
  absl::Status Set(absl::string_view name, const std::string& text);
  // The settings that are not left to the model, as "temperature 0.7".
  std::vector<std::string> Describe() const;
  void ApplyTo(v1::GenerateRequest& request) const;

 private:
  std::map<std::string, std::string> texts_;  // by flag; empty: not given
  v1::GenerateRequest settings_;              // holds sampling and max_tokens alone
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_SAMPLING_FLAGS_H_
