#include "expert_service/test_model.h"

#include <filesystem>
#include <memory>

#include "gtest/gtest.h"

namespace conclave {

std::string DemoModelDirectory() {
  return std::filesystem::canonical("models/demo/config.json").parent_path().string();
}

const Checkpoint& DemoModel() {
  static const Checkpoint* const model = [] {
    auto opened = Checkpoint::Open(DemoModelDirectory());
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened->release();
  }();
  return *model;
}

}  // namespace conclave
