// Turns what a user gives as --model into a directory: a path, or org/name[@revision] in the local Hugging Face cache.
#ifndef CONCLAVE_MOE_CHECKPOINT_MODEL_DIR_H_
#define CONCLAVE_MOE_CHECKPOINT_MODEL_DIR_H_

#include <string>

#include "absl/status/statusor.h"

namespace conclave {

// The values of environment variables that decide where the cache is; empty where not set. Read in main only.
struct HubEnvironment {
  std::string hub_cache;  // HF_HUB_CACHE: the folder of models--org--name folders
  std::string hf_home;    // HF_HOME: the cache is HF_HOME/hub
  std::string home;       // HOME: the cache is HOME/.cache/huggingface/hub
};

// The cache folder that Hugging Face's own tools would use; empty when nothing in `environment` is set.
std::string HubCacheFolder(const HubEnvironment& environment);

// A path that exists is returned as it is (Checkpoint::Open judges it). Otherwise `org/name` or `org/name@revision` is
// looked up in the cache, a revision being a branch, a tag or a commit hash, "main" by default.
// NOT_FOUND: no such path; or not in the cache, or not complete there, with the command that downloads it, the place
// it goes to, the free disk there and the size where it is known. INVALID_ARGUMENT: a name that can be neither.
absl::StatusOr<std::string> ResolveModelDir(const std::string& model, const HubEnvironment& environment);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_MODEL_DIR_H_
