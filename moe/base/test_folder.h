// For tests: where they put files.
#ifndef CONCLAVE_MOE_BASE_TEST_FOLDER_H_
#define CONCLAVE_MOE_BASE_TEST_FOLDER_H_

#include <string>

namespace conclave {

// An absolute path, without a slash at its end: a folder of this process alone, below the one that Bazel gives to tests
// or below /tmp. Made at the first call; removed, with all that it holds, when the process ends by itself.
// Thread-safe.
const std::string& TestFolder();

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_TEST_FOLDER_H_
