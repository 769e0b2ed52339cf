// Files for tests: throw-away directories and hand-made safetensors, damaged on purpose where a test wants it.
#ifndef CONCLAVE_MOE_CHECKPOINT_TEST_FILES_H_
#define CONCLAVE_MOE_CHECKPOINT_TEST_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace conclave::test_files {

// An empty directory of this name below the test's own temporary folder.
std::string MakeDirectory(const std::string& name);
void Write(const std::string& path, absl::string_view bytes);
std::string ReadAll(const std::string& path);
// A safetensors file's bytes: length, `json`, `data`.
std::string RawSafetensors(absl::string_view json, absl::string_view data);
// The models that are around: the demo model where the test has //models:demo in its data, and reference/* and
// demo-model below `shared` (the value of CONCLAVE_SHARED_DIR, which `./test` sets; may be null).
std::vector<std::string> ModelDirectories(const char* shared);
// Resident bytes of this process that come from files (RssFile of /proc/self/status).
int64_t ResidentFileBytes();

}  // namespace conclave::test_files

#endif  // CONCLAVE_MOE_CHECKPOINT_TEST_FILES_H_
