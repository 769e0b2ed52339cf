#include "moe/base/test_folder.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "gtest/gtest.h"
#include "moe/base/check.h"

namespace conclave {
namespace {

class Folder {
 public:
  Folder() : path_((std::filesystem::path(testing::TempDir()) / "conclave-test-XXXXXX").string()), owner_(getpid()) {
    CONCLAVE_CHECK(mkdtemp(path_.data()) != nullptr);
  }
  ~Folder() {
    if (getpid() != owner_) return;  // a child that ends, as those of death tests do
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const pid_t owner_;
};

}  // namespace

const std::string& TestFolder() {
  static const Folder folder;
  return folder.path();
}

}  // namespace conclave
