import a_module_nobody_has

NODE_CLASS_MAPPINGS = {}
